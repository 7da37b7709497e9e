"""Measure and plot the encoder on a GPU: `python -m benchmarks.gpu FOLDER` (`make bench-gpu`).

For both released models it runs `benchmarks.encoder`, and for each it states how long the first call takes in this
process, which compiles the kernels if Triton's cache doesn't have them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.encoder import Options, load, report, take, workloads
from vista_core.encoder import encode_tensors, to_host

MODELS = ("bge-visualized-base-en-v1.5", "bge-visualized-m3")
OURS, PLAIN = "#1f6f8b", "#b8c4c9"


def first_call(options: Options) -> float:
    """Seconds until the first eight pairs are encoded, once the model is loaded."""
    fast = load(options).fast
    inputs, _ = workloads(options, fast.device)["pair"]
    started = time.perf_counter()
    to_host(encode_tensors(fast, *take(inputs, 8)))
    return time.perf_counter() - started


def draw(reports: list[dict[str, Any]], picture: Path) -> None:
    """Items/s of both models beside torch's operators, and the share of the rate of a matrix product."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(reports), figsize=(11, 6.4), layout="constrained", squeeze=False)
    for (rates, shares), figures in zip(axes.T, reports, strict=True):
        results = figures["results"]
        names, height = [result["workload"] for result in results], np.arange(len(results))[::-1]
        for offset, key, color, label in ((0.2, "batched", OURS, "vista"), (-0.2, "plain_padding", PLAIN, "plain")):
            medians = [float(np.median(result[key])) for result in results]
            rates.barh(height + offset, medians, 0.38, color=color, label=label)
            for y, value, result in zip(height + offset, medians, results, strict=True):
                ratio = value / np.median(result["one_by_one"])
                rates.annotate(f" {value:,.0f}/s, {ratio:,.0f} times one by one", (value, y), va="center", fontsize=8)
        rates.set_yticks(height, names)
        rates.set_xscale("log")
        rates.set_xlim(right=rates.get_xlim()[1] * 30)
        rates.set_title(f"{figures['model']}, {figures['dtype']}: items/s", loc="left", fontsize=10)
        rates.legend(loc="lower right", fontsize=8, frameon=False)
        achieved = [np.median(np.multiply(r["batched"], r["tflop_per_item"]) / r["matmul_tflops"]) for r in results]
        shares.barh(height, np.multiply(achieved, 100), 0.6, color=OURS)
        for y, share, result in zip(height, achieved, results, strict=True):
            shares.annotate(
                f" {share:.0%}, cosine at least {result['cosine_min']:.5f}, GPU busy {result['busy']:.0%}",
                (100 * share, y), va="center", fontsize=8,
            )  # fmt: skip
        shares.set_yticks(height, names)
        shares.set_xlim(0, 130)
        shares.set_title("% of the rate of the card's own matrix product", loc="left", fontsize=10)
        for axis in (rates, shares):
            axis.spines[["top", "right"]].set_visible(False)
    machine = f"{reports[0]['machine']}, torch {reports[0]['torch']}"
    figure.suptitle(f"{machine}; plain: batches of 1,024, padded, torch's operators", x=0.01, ha="left", fontsize=10)
    figure.savefig(picture, dpi=110)


def main(folder: Path) -> int:
    """Measure both models, print tables, and write `gpu.json` and `gpu.png` into `folder`."""
    if not torch.cuda.is_available():
        print("this machine has no GPU that torch can use, so there is nothing to measure", file=sys.stderr)
        return 2
    reports: list[dict[str, Any]] = []
    for model in MODELS:
        seconds = first_call(Options(model=model))  # type: ignore[arg-type]
        print(f"first call: {seconds:.1f} s")
        reports.append(report(Options(model=model)) | {"first_call_seconds": seconds})  # type: ignore[arg-type]
        print()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(reports, indent=1) + "\n")
    draw(reports, folder / "gpu.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
