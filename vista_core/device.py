"""The device that the model runs on, and its precision."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Literal, cast

import torch

from vista_core.config import ModelConfig
from vista_core.cpu_speed import fastest, product_rates
from vista_core.errors import UsageError

Rates = Callable[[ModelConfig], Mapping[torch.dtype, float]]
DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`: "auto" is the GPU if there is one.

    Raises UsageError if the GPU asked for does not exist; it never falls back to the CPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if count else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        found = f"{count} of them (numbered from 0)" if count else "none"
        raise UsageError(f"--device {device} was asked for, but this machine has {found}; give --device auto or cpu")
    return resolved


def resolve_dtype(dtype: str, device: str, config: ModelConfig, rates: Rates = product_rates) -> DtypeName:
    """The precision for `dtype`: "auto" is the fastest one that keeps a cosine of 0.999 to float32.

    On GPUs, float16 is as fast as bfloat16 and eight times as precise, but its range is narrow; it is chosen only for
    models whose vectors bfloat16 changes too much. On CPUs it is the one with the highest of `rates`.

    `device` may be "cuda" on a machine without a GPU: a driver decides for its workers.
    """
    if dtype != "auto":
        return cast(DtypeName, dtype)
    if device.startswith("cuda"):
        return "bfloat16" if config.bf16 and not _old_gpu() else "float16"
    return dtype_name(fastest(rates(config)))


def dtype_name(dtype: torch.dtype) -> DtypeName:
    """The name of a precision."""
    return next(cast(DtypeName, name) for name, each in DTYPES.items() if each == dtype)


def can_fuse(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """True if `vista_core.kernels` can run a model: on a GPU since Ampere, in half precision, if Triton is installed.

    The kernels take heads whose width is a power of two.
    """
    widths = {tower.width // tower.heads for tower in (config.text, config.vision)}
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and find_spec("triton") is not None
        and all(width >= 16 and width & (width - 1) == 0 for width in widths)
    )


def _old_gpu() -> bool:
    """True if this machine has a GPU and it lacks bfloat16 (before Ampere)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
