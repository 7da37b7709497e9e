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

TOKENS: Final = 256
ROUNDS: Final = 7  # of which the fastest counts: whatever else the machine does only takes time
WORTH_IT: Final = 1.2  # times float32: what is no product gains nothing, and float32 is exact


def product_rates(config: ModelConfig) -> dict[torch.dtype, float]:
    """GFLOP/s of the feed-forward products of a text layer, with their activation, in each precision that `auto` takes.

    These keep a cosine of 0.999 to float32. float16 is none of them: no CPU has been seen that is fast at it. It is
    measured once in a process.
    """
    return dict(_once(config, torch.get_num_threads()))


@functools.cache
def _once(config: ModelConfig, threads: int) -> dict[torch.dtype, float]:
    """`measure_rates`, once for each number of threads."""
    return measure_rates(config)


def fastest(rates: Mapping[torch.dtype, float]) -> torch.dtype:
    """The precision with the highest rate; float32 if no other one is worth it."""
    best = max(rates, key=lambda dtype: rates[dtype])
    return best if rates[best] >= WORTH_IT * rates[torch.float32] else torch.float32


def describe(rates: Mapping[torch.dtype, float]) -> str:
    """The rates for people."""
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {rate:,.0f}" for dtype, rate in rates.items()) + " GFLOP/s"


@torch.inference_mode()
def measure_rates(config: ModelConfig) -> dict[torch.dtype, float]:
    """What `product_rates` gives, measured now. The precisions take turns, so that other work slows all of them."""
    width, hidden = config.text.width, config.text.mlp_width
    dtypes = (torch.float32, torch.bfloat16) if config.bf16 else (torch.float32,)
    made = {dtype: _layers(width, hidden, dtype) for dtype in dtypes}
    inputs = {dtype: torch.ones(TOKENS, width, dtype=dtype) for dtype in dtypes}
    seconds = dict.fromkeys(dtypes, float("inf"))
    for _ in range(1 + ROUNDS):  # what is done once in the first one is never the fastest
        for dtype in dtypes:
            began = time.perf_counter()
            made[dtype](inputs[dtype])
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return {dtype: 4 * TOKENS * width * hidden / seconds[dtype] / 1e9 for dtype in dtypes}


def _layers(width: int, hidden: int, dtype: torch.dtype) -> nn.Module:
    """The two layers, packed as an encoder's are."""
    with torch.device("meta"):  # no random weights
        layers = nn.Sequential(Linear(width, hidden, gelu=True), Linear(hidden, width)).to(dtype)
    for parameter in layers.to_empty(device="cpu").parameters():
        parameter.fill_(0.01)
    pack_for_cpu(layers)
    return layers
