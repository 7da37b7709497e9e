"""How fast this machine's CPU multiplies in each precision: measured, since the CPU's flags don't tell.

A CPU may have instructions for bfloat16 that are slower than those for float32: on two cores of an Intel machine with
`avx512_bf16`, whose AMX was masked, products in bfloat16 ran at 121 GFLOP/s and in float32 at 179.
"""

import functools
import time
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from vista_core.config import ModelConfig
from vista_core.linear import Linear, pack_for_cpu

TOKENS: Final = 512
ROUNDS: Final = 3  # of which the fastest counts: whatever else the machine does only takes time
WORTH_IT: Final = 1.2  # times float32: what is no product gains nothing, and float32 is exact


def product_rates(config: ModelConfig) -> dict[torch.dtype, float]:
    """GFLOP/s of the feed-forward products of a text layer, with their activation, in each precision that `auto` takes.

    These keep a cosine of 0.999 to float32. It is measured once in a process.
    """
    candidates = [torch.float32, torch.float16, *([torch.bfloat16] if config.bf16 else [])]
    return {
        dtype: _rate(config.text.width, config.text.mlp_width, dtype, torch.get_num_threads()) for dtype in candidates
    }


def fastest(rates: Mapping[torch.dtype, float]) -> torch.dtype:
    """The precision with the highest rate; float32 if no other one is worth it."""
    best = max(rates, key=lambda dtype: rates[dtype])
    return best if rates[best] >= WORTH_IT * rates[torch.float32] else torch.float32


def describe(rates: Mapping[torch.dtype, float]) -> str:
    """The rates for people."""
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {rate:,.0f}" for dtype, rate in rates.items()) + " GFLOP/s"


@functools.cache
def _rate(width: int, hidden: int, dtype: torch.dtype, threads: int) -> float:
    """`product_rate`, once for each number of threads."""
    return product_rate(width, hidden, dtype)


@torch.inference_mode()
def product_rate(width: int, hidden: int, dtype: torch.dtype) -> float:
    """GFLOP/s of two layers, `width` to `hidden` with GELU and back, as an encoder has them on this CPU."""
    with torch.device("meta"):  # no random weights
        layers = nn.Sequential(Linear(width, hidden, gelu=True), Linear(hidden, width)).to(dtype)
    for parameter in layers.to_empty(device="cpu").parameters():
        parameter.fill_(0.01)
    pack_for_cpu(layers)
    tokens = torch.ones(TOKENS, width, dtype=dtype)
    layers(tokens)  # what is done once is not measured
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        layers(tokens)
        seconds.append(time.perf_counter() - began)
    return 4 * TOKENS * width * hidden / min(seconds) / 1e9
