"""Throughput of the encoder: `python -m benchmarks.encoder` (`make bench`).

The batched encoder is compared with two baselines:

* one by one: one item a call in float32, with a plain last text layer that computes the states of all tokens;
* plain padding: batches in the given order, each padded to its longest text: of 32 items with the same fast model on a
  CPU, of 1,024 with torch's own operators on a GPU.

Decoding and tokenizing are not measured. All sides are measured in turn, together with the rate of a matrix product on
this machine, so that other load on the machine slows all of them; ratios are taken within each turn. The last column
is the smallest cosine between the vectors of the batched encoder and those encoded one by one.
"""

from __future__ import annotations

import copy
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch.profiler import ProfilerActivity, profile

from vista_core import MODELS, ModelConfig
from vista_core.batching import TokenBudget
from vista_core.checkpoint import load_model, open_checkpoint
from vista_core.cpu_speed import describe, measure_rates, product_rates
from vista_core.device import DTYPES, resolve_device, resolve_dtype
from vista_core.encoder import encode_tensors, prepare_for_inference, to_host
from vista_core.model import VistaModel
from vista_core.synthetic import synthetic_checkpoint
from vista_core.text import TextLayer

Inputs = tuple[list[np.ndarray], list[np.ndarray | None]]
SHORT = 32  # tokens
PLAIN_BATCH = {"cpu": 32, "cuda": 1024}
SHARE = 0.8  # of the fastest matrix product, which every workload should reach on a CPU
MOST_MIXED = 256  # texts of mixed length that are encoded one by one
# ratio to one by one that each workload should reach, for benchmarks.plot
GOALS = {"text short": 8.0, "text mixed": 12.0, "image": 6.0, "pair": 6.0}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Literal["bge-visualized-base-en-v1.5", "bge-visualized-m3", "vista-tiny"] = "bge-visualized-base-en-v1.5"
    weights: Path | None = None
    """a .pth or .safetensors file (default: synthetic weights)"""
    device: str = "auto"
    dtype: str = "auto"
    batch: int | None = None
    """items with an image in each call; four times as many in calls with texts only; default: 32, or 4,096 on a GPU"""
    single: int = 4
    """items with an image that are encoded one by one in each repetition"""
    repetitions: int = 5
    """turns, in each of which every side is measured once"""
    output: Path | None = None
    """JSON file to write the results to as well"""


@dataclass(frozen=True)
class Result:
    """Results of one workload; lists have one value for each turn."""

    workload: str
    one_by_one: list[float]  # items/s
    plain_padding: list[float]  # items/s
    batched: list[float]  # items/s
    matmul_tflops: list[float]
    tflop_per_item: float  # that the batched encoder computes
    cosine_min: float
    busy: float | None  # share of the time of a call in which the GPU computes

    @property
    def share(self) -> float:
        """The share of the matrix product's rate that the batched encoder reaches."""
        return float(np.median(np.multiply(self.batched, self.tflop_per_item) / self.matmul_tflops))

    def __str__(self) -> str:
        """One line of the table."""
        rates = f"{np.median(self.one_by_one):>9.2f}/s{np.median(self.batched):>11.2f}/s"
        single, padded = (spread(self.batched, other) for other in (self.one_by_one, self.plain_padding))
        achieved = np.median(np.multiply(self.batched, self.tflop_per_item))
        return (
            f"{self.workload:<12}{rates}   {single:<20}{padded:<20}{achieved:>8.2f} TFLOP/s {self.share:>5.0%}"
            f"{self.cosine_min:>10.5f}{'' if self.busy is None else f'{self.busy:>6.0%}'}"
        )


def spread(one: list[float], other: list[float]) -> str:
    """Minimum, median and maximum of the ratios, turn by turn."""
    ratios = np.divide(one, other)
    return f"{ratios.min():.2f} / {np.median(ratios):.2f} / {ratios.max():.2f}"


def workloads(options: Options, device: torch.device) -> dict[str, tuple[Inputs, int]]:
    """Inputs of each workload by name, and how many of them are encoded one by one.

    Tokens and pixels are random, which takes as long as real ones.
    """
    config, draw = MODELS[options.model], np.random.default_rng(0)
    images = options.batch or {"cpu": 32, "cuda": 4096}[device.type]
    size, texts = config.vision.image_size, 4 * images
    lengths = np.clip(draw.lognormal(3.4, 0.8, texts), 4, min(340, config.max_tokens()[0])).astype(int)

    def ids(each: np.ndarray) -> list[np.ndarray]:
        return [draw.integers(4, config.text.vocab_size, length, dtype=np.int32) for length in each]

    def photos() -> list[np.ndarray | None]:
        smooth = draw.integers(0, 256, (min(images, 256), 8, 8, 3), dtype=np.uint8)  # smooth areas, as in nature
        different = np.repeat(np.repeat(smooth, size // 8, 1), size // 8, 2)
        return [different[index % len(different)] for index in range(images)]

    return {
        "text short": ((ids(np.full(texts, SHORT)), [None] * texts), 4 * options.single),
        "text mixed": ((ids(lengths), [None] * texts), min(texts, MOST_MIXED)),  # many, since lengths differ
        "image": ((ids(np.full(images, 2)), photos()), options.single),
        "pair": ((ids(np.full(images, SHORT)), photos()), options.single),
    }


def tflop(config: ModelConfig, tokens: int, image: bool) -> float:
    """TFLOP to encode one item with `tokens` of text (1 MAC = 2 FLOPs); the last text layer only computes CLS."""
    text, vision = config.text, config.vision
    sequence = tokens + (vision.tokens if image else 0)
    layer = 8 * text.width**2 + 4 * text.width * text.mlp_width
    total = (text.layers - 1) * sequence * (layer + 4 * sequence * text.width)
    total += layer + 4 * sequence * text.width * text.heads
    if image:
        patches = vision.tokens + 1
        block = 8 * vision.width**2 + 6 * vision.width * vision.mlp_width + 4 * patches * vision.width
        total += vision.layers * patches * block + 2 * vision.tokens * vision.width * text.width
        total += 6 * vision.tokens * vision.patch_size**2 * vision.width
    return total / 1e12


def computing_all(model: VistaModel) -> VistaModel:
    """`model`, changed in place: its last text layer computes the states of all tokens, as a plain one does."""
    last = model.text.layers[-1]
    last.forward = lambda x, packing: TextLayer.forward(last, x, packing)[packing.starts]  # type: ignore[arg-type, assignment]
    return model


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Duration of a call, including the work that it left to the GPU."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def take(inputs: Inputs, count: int) -> Inputs:
    return inputs[0][:count], inputs[1][:count]


def one_by_one(model: VistaModel, inputs: Inputs) -> torch.Tensor:
    return torch.cat([encode_tensors(model, [ids], [pixels]) for ids, pixels in zip(*inputs, strict=True)])


def padded_plainly(inputs: Inputs, batch: int) -> list[Inputs]:
    """Batches in the given order, in which each text is repeated up to the longest: padding costs as much as text."""
    starts = range(0, len(inputs[0]), batch)
    batches = [(inputs[0][at : at + batch], inputs[1][at : at + batch]) for at in starts]
    return [([np.resize(ids, max(map(len, texts))) for ids in texts], pixels) for texts, pixels in batches]


@dataclass(frozen=True)
class Models:
    """The same weights three times."""

    single: VistaModel  # float32, all states in the last layer: for one by one
    padded: VistaModel  # for plain padding
    fast: VistaModel  # as an Encoder has it

    @property
    def device(self) -> torch.device:
        """The device of all three."""
        return self.fast.device


def measure(name: str, models: Models, work: tuple[Inputs, int], repetitions: int) -> Result:
    """Measure all sides in turn on one workload, after one call of each to warm up."""
    (inputs, single), device, fast = work, models.device, models.fast
    some, count = take(inputs, single), len(inputs[0])
    padded = padded_plainly(inputs, PLAIN_BATCH[device.type])
    unlimited = TokenBudget(10**9)

    def encode_padded() -> None:
        for batch in padded:
            encode_tensors(models.padded, *batch, unlimited)

    def encode() -> np.ndarray:
        return to_host(encode_tensors(fast, *inputs))

    exact = one_by_one(models.single, some).cpu()
    cosines = F.cosine_similarity(exact, torch.from_numpy(encode()[: len(some[0])]))
    encode_padded()
    multiply = matrix_product(device, fast.dtype, fast.config)
    turns = [
        (
            len(some[0]) / seconds(lambda: one_by_one(models.single, some), device),
            count / seconds(encode_padded, device),
            count / seconds(encode, device),
            multiply(),
        )
        for _ in range(repetitions)
    ]
    single_rates, padded_rates, rates, products = (list(side) for side in zip(*turns, strict=True))
    config = fast.config
    per_item = np.mean([tflop(config, len(ids), image is not None) for ids, image in zip(*inputs, strict=True)])
    lowest, busy = float(cosines.min()), busy_share(encode) if device.type == "cuda" else None
    return Result(name, single_rates, padded_rates, rates, products, float(per_item), lowest, busy)


def busy_share(call: Callable[[], object]) -> float:
    """Share of a call's duration in which the GPU runs kernels or copies."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        duration = seconds(call, torch.device("cuda"))
    return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / duration


def matrix_product(device: torch.device, dtype: torch.dtype, config: ModelConfig) -> Callable[[], float]:
    """A function that measures the TFLOP/s of a large matrix product, the upper limit for any model on this device.

    On a CPU it is that of the feed-forward layers in whichever precision is fastest, which need not be `dtype`.
    """
    if device.type == "cpu":
        return lambda: max(measure_rates(config).values()) / 1000
    size = 8192
    x, weight = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def measure() -> float:
        calls = [seconds(lambda: F.linear(x, weight), device) for _ in range(12)]
        return 2 * size**3 / min(calls[2:]) / 1e12

    return measure


def product_line(device: torch.device, dtype: torch.dtype, config: ModelConfig) -> str:
    """The rate of matrix products in each precision, for people."""
    if device.type == "cpu":
        return f"matrix products: {describe(product_rates(config))}; shares are of the fastest"
    single, half = (matrix_product(device, each, config)() for each in (torch.float32, dtype))
    return f"matrix product: float32 {single:.3f} TFLOP/s, {str(dtype).removeprefix('torch.')} {half:.3f}"


def machine(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with its number of threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({clocks()})"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads"


def clocks() -> str:
    """The GPU's clocks and power limit as found, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit", "--format=csv,noheader"]
    shown = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return f"at most {shown}" if shown else "clocks unknown"


def load(options: Options) -> Models:
    """All three models."""
    config, device = MODELS[options.model], resolve_device(options.device)
    checkpoint = open_checkpoint(options.weights) if options.weights else synthetic_checkpoint(config)
    single = load_model(config, checkpoint).requires_grad_(False)
    dtype = DTYPES[resolve_dtype(options.dtype, device.type, config)]
    fast = copy.deepcopy(single).to(device, dtype)
    padded = copy.deepcopy(fast) if device.type == "cuda" else fast
    prepare_for_inference(fast)
    return Models(computing_all(single.to(device)), padded, fast)


def report(options: Options) -> dict[str, object]:
    """Measure, print a table, and return the figures."""
    models = load(options)
    device, dtype = models.device, str(models.fast.dtype).removeprefix("torch.")
    weights = str(options.weights or "synthetic weights")
    print(f"{options.model}, {weights}, {dtype} on {machine(device)}, torch {torch.__version__}")
    print(f"{product_line(device, models.fast.dtype, models.fast.config)}\n")
    header = f"{'':<12}{'one by one':>11}{'batched':>13}   {'ratio min/med/max':<20}{'to plain padding':<20}"
    print(f"{header}{'achieved':>16} {'share':>5}{'cosine':>10}{'  busy' if device.type == 'cuda' else ''}")
    results = []
    for name, work in workloads(options, device).items():
        results.append(measure(name, models, work, options.repetitions))
        print(results[-1], flush=True)
    if low := [f"{each.workload} {each.share:.0%}" for each in results if device.type == "cpu" and each.share < SHARE]:
        print(f"\nless than {SHARE:.0%} of the fastest matrix product: {', '.join(low)}")
    return {
        "model": options.model,
        "weights": weights,
        "dtype": dtype,
        "machine": machine(device),
        "torch": torch.__version__,
        "matmul": product_line(device, models.fast.dtype, models.fast.config),
        "goals": GOALS,
        "results": [asdict(result) for result in results],
    }


def main(options: Options) -> None:
    """Measure, print a table, and write the results as JSON."""
    figures = report(options)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
