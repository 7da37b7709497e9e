"""Throughput of the encoder against plain calls of the same model: `python -m benchmarks.encoder` (`make bench`).

The baseline is the same model in float32, eager, one item at a time, and computes all of the last text layer, as any
plain implementation does (of which only CLS is read). Decoding and tokenizing are left out on both sides. Repetitions
of both are interleaved, so a busy machine slows both; ratios are formed within each. Beside each ratio stands the
smallest cosine between the two sides' vectors.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from vista_core import MODELS, display_name
from vista_core.batching import TokenBudget, plan_batches
from vista_core.checkpoint import load_model, open_checkpoint
from vista_core.device import DTYPES, resolve_device, resolve_dtype
from vista_core.encoder import TOKEN_BUDGETS, encode_tensors
from vista_core.linear import pack_for_cpu
from vista_core.model import VistaModel
from vista_core.synthetic import synthetic_checkpoint
from vista_core.text import TextLayer

Inputs = tuple[list[np.ndarray], list[np.ndarray | None]]
TEXT_TOKENS = 32
GOALS = {
    ("bge-visualized-base-en-v1.5", "text of 32 tokens"): 8.0,
    ("bge-visualized-base-en-v1.5", "image with text"): 4.0,
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Literal["bge-visualized-base-en-v1.5", "bge-visualized-m3", "vista-tiny"] = "bge-visualized-base-en-v1.5"
    weights: Path | None = None
    """a .pth or .safetensors; synthetic weights without it"""
    device: str = "auto"
    dtype: str = "auto"
    batch: int = 16
    """items with an image in one call; four times as many texts"""
    single: int = 4
    """calls of one item in each repetition; four times as many for texts"""
    repetitions: int = 5
    json: Path | None = None
    """also write the figures to this file"""


@dataclass(frozen=True)
class Result:
    """Items per second of both sides (medians), and the ratios of the interleaved repetitions."""

    workload: str
    one_by_one: float
    batched: float
    ratio_min: float
    ratio_median: float
    ratio_max: float
    cosine_min: float

    def __str__(self) -> str:
        ratios = f"x{self.ratio_min:.2f} / x{self.ratio_median:.2f} / x{self.ratio_max:.2f}"
        rates = f"{self.one_by_one:>9.2f}/s{self.batched:>11.2f}/s"
        return f"{self.workload:<20}{rates}   {ratios:<24}{self.cosine_min:>10.5f}"


def workloads(options: Options) -> dict[str, tuple[Inputs, int]]:
    """Name to inputs, and how many of them the baseline encodes; random tokens and pixels cost what real ones do."""
    config, draw = MODELS[options.model], np.random.default_rng(0)
    size = config.vision.image_size

    def ids(count: int, tokens: int) -> list[np.ndarray]:
        return list(draw.integers(4, config.text.vocab_size, (count, tokens), dtype=np.int32))

    def images(count: int) -> list[np.ndarray | None]:
        smooth = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)  # natural images are no noise either
        return list(np.repeat(np.repeat(smooth, size // 8, 1), size // 8, 2))

    texts, single, batch = 4 * options.batch, options.single, options.batch
    return {
        "text of 32 tokens": ((ids(texts, TEXT_TOKENS), [None] * texts), 4 * single),
        "image": ((ids(batch, 2), images(batch)), single),
        "image with text": ((ids(batch, TEXT_TOKENS), images(batch)), single),
    }


def computing_all(model: VistaModel) -> VistaModel:
    """`model` without the shortcut in its last text layer."""
    last = model.text.layers[-1]
    last.forward = lambda x, packing: TextLayer.forward(last, x, packing)[packing.starts]  # type: ignore[arg-type, assignment]
    return model


def seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def one_by_one(model: VistaModel, inputs: Inputs, count: int) -> torch.Tensor:
    return torch.cat([encode_tensors(model, [ids], [pixels]) for ids, pixels in zip(*inputs, strict=True)][:count])


def take(inputs: Inputs, count: int) -> Inputs:
    return inputs[0][:count], inputs[1][:count]


def measure(name: str, models: tuple[VistaModel, VistaModel], work: tuple[Inputs, int], repetitions: int) -> Result:
    """Interleave both sides on one workload, after a call of each to warm up."""
    (plain, fast), (inputs, single), device = models, work, models[0].device
    some, count = take(inputs, single), len(inputs[0])
    single = len(some[0])
    cosines = F.cosine_similarity(one_by_one(plain, some, single), encode_tensors(fast, *inputs)[:single])
    times = [
        (
            seconds(lambda: one_by_one(plain, some, single), device) / single,
            seconds(lambda: encode_tensors(fast, *inputs), device) / count,
        )
        for _ in range(repetitions)
    ]
    slow_rate, fast_rate = (1 / float(np.median(side)) for side in zip(*times, strict=True))
    ratios = [slow / quick for slow, quick in times]
    low, middle, high = min(ratios), float(np.median(ratios)), max(ratios)
    return Result(name, slow_rate, fast_rate, low, middle, high, float(cosines.min()))


def padding(model: VistaModel, repetitions: int) -> dict[str, float]:
    """Texts of mixed length: share of padding and time, against batches of 32 as they come."""
    draw = np.random.default_rng(1)
    lengths = np.clip(draw.lognormal(3.4, 0.8, 128), 4, min(340, model.config.max_tokens()[0])).astype(int)
    ids = [draw.integers(4, model.config.text.vocab_size, length, dtype=np.int32) for length in lengths]
    nothing: list[np.ndarray | None] = [None] * len(ids)
    naive = [list(range(start, min(start + 32, len(ids)))) for start in range(0, len(ids), 32)]
    planned = plan_batches(lengths.tolist(), TOKEN_BUDGETS[model.device.type])

    def encode_naive() -> None:
        for batch in naive:  # a budget without bounds keeps the batch whole, padded to its longest
            encode_tensors(model, [ids[i] for i in batch], nothing[: len(batch)], TokenBudget(10**9))

    def share(batches: list[list[int]]) -> float:
        return 1 - lengths.sum() / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    encode_naive()
    encode_tensors(model, ids, nothing)
    ratios = [
        seconds(encode_naive, model.device) / seconds(lambda: encode_tensors(model, ids, nothing), model.device)
        for _ in range(repetitions)
    ]
    return {
        "mean_tokens": float(lengths.mean()),
        "max_tokens": float(lengths.max()),
        "padding_in_batches_of_32": float(share(naive)),
        "padding_planned": float(share(planned)),
        "ratio_median": float(np.median(ratios)),
    }


def matmul_rates(device: torch.device) -> dict[str, float]:
    """GFLOP/s of [4096, 768] x [768, 3072], the best of 8: what any of this could reach."""
    rates = {}
    for name, dtype in DTYPES.items():
        x, weight = (
            torch.randn(4096, 768, device=device, dtype=dtype),
            torch.randn(3072, 768, device=device, dtype=dtype),
        )
        calls = [seconds(lambda x=x, w=weight: F.linear(x, w), device) for _ in range(10)]  # type: ignore[misc]
        rates[name] = 2 * 4096 * 768 * 3072 / min(calls[2:]) / 1e9
    return rates


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads"


def main(options: Options) -> None:
    """Measure, print a table, write JSON."""
    config, device = MODELS[options.model], resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device.type, config)
    checkpoint = open_checkpoint(options.weights) if options.weights else synthetic_checkpoint(config)
    plain = computing_all(load_model(config, checkpoint).requires_grad_(False).to(device))
    fast = load_model(config, checkpoint, DTYPES[dtype]).requires_grad_(False).to(device)
    if device.type == "cpu":
        pack_for_cpu(fast)
    rates = matmul_rates(device)
    weights = str(options.weights or "synthetic weights")
    print(f"{display_name(options.model)}, {weights}, {dtype} on {machine(device)}, torch {torch.__version__}")
    print(f"plain matrix product: {', '.join(f'{name} {rate:,.0f} GFLOP/s' for name, rate in rates.items())}\n")
    print(f"{'':<20}{'one by one':>11}{'batched':>13}   {'ratio min/median/max':<24}{'min cosine':>10}")
    results = []
    for name, work in workloads(options).items():
        results.append(measure(name, (plain, fast), work, options.repetitions))
        goal = GOALS.get((options.model, name)) if device.type == "cpu" else None
        print(results[-1], f"  goal x{goal:.0f}" if goal else "", flush=True)
    mixed = padding(fast, options.repetitions)
    print(
        f"\ntexts of mixed length (mean {mixed['mean_tokens']:.0f}, longest {mixed['max_tokens']:.0f} tokens): "
        f"{mixed['padding_planned']:.1%} padding against {mixed['padding_in_batches_of_32']:.1%} in batches of 32 as "
        f"they come, x{mixed['ratio_median']:.2f} as fast"
    )
    if options.json:
        figures = {
            "model": options.model,
            "weights": weights,
            "dtype": dtype,
            "machine": machine(device),
            "torch": torch.__version__,
        }
        report = {
            **figures,
            "matmul_gflops": rates,
            "results": [asdict(result) for result in results],
            "mixed_texts": mixed,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
