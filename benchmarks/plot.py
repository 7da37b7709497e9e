"""Plot the results of `make bench`: `python -m benchmarks.plot FOLDER PICTURE.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

OURS, GOAL = "#1f6f8b", "#d1495b"


def bars(axis: Any, names: list[str], ratios: list[np.ndarray], goals: list[float | None]) -> None:
    """Draw the median of each array of ratios as a bar, with its range as a whisker and its goal as a red mark."""
    middles = [float(np.median(ratio)) for ratio in ratios]
    spreads = [[m - r.min() for m, r in zip(middles, ratios, strict=True)]]
    spreads.append([r.max() - m for m, r in zip(middles, ratios, strict=True)])
    heights = np.arange(len(names))[::-1]  # from top to bottom
    axis.barh(heights, middles, xerr=spreads, color=OURS, height=0.6, ecolor="#333333", capsize=3)
    for height, middle, goal in zip(heights, middles, goals, strict=True):
        axis.annotate(f"{middle:.2g}", (0, height), (6, 0), textcoords="offset points", va="center", color="white")
        if goal:
            axis.plot([goal, goal], [height - 0.38, height + 0.38], color=GOAL, linewidth=2)
    axis.set_yticks(heights, names)
    longest = [*(r.max() for r in ratios), *filter(None, goals)]
    axis.set_xlim(0, 1.08 * max(longest))
    axis.set_ylim(-0.9, len(names) - 0.1)
    axis.spines[["top", "right"]].set_visible(False)


def draw(folder: Path, picture: Path) -> None:
    """Draw four panels from the JSON files in `folder`: two for the encoder, one for decoding, one for the job."""
    encoder, decoding, job = (json.loads((folder / f"{n}.json").read_text()) for n in ("encoder", "decoding", "job"))
    results, goals = encoder["results"], encoder["goals"]
    names = [result["workload"] for result in results]
    figure, ((single, share), (decode, kept)) = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    singles = [np.divide(r["batched"], r["one_by_one"]) for r in results]
    bars(single, names, singles, [goals.get(name) for name in names])
    single.set_title("Encoder: ratio to one item a call in float32", loc="left")
    shares = [np.multiply(r["batched"], r["tflop_per_item"]) / np.array(r["matmul_tflops"]) * 100 for r in results]
    bars(share, names, shares, [60.0] * len(names))
    share.set_title(f"Encoder: % of the rate of a {encoder['dtype']} matrix product", loc="left")
    sizes = [f"{result['width']}x{result['height']}" for result in decoding]
    bars(decode, sizes, [np.divide(r["fast"], r["exact"]) for r in decoding], [2.0] * len(sizes))
    decode.set_title("Decoding JPEGs: ratio to Pillow", loc="left")
    ratios = job["ratios"]
    bars(kept, [ratio["name"] for ratio in ratios], [np.divide(r["job"], r["alone"]) for r in ratios], [0.8, 0.9])
    kept.set_title("The whole job: ratio of its rows/s to those of one part alone", loc="left")
    figure.suptitle(f"{encoder['model']} on {encoder['machine']}, torch {encoder['torch']}", x=0.01, ha="left")
    figure.supxlabel("bar: median; whisker: minimum and maximum of the repetitions; red: goal", fontsize=9)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
