"""Where the model runs, and in which precision."""

from typing import Literal, cast

import torch

from vista_core.config import ModelConfig
from vista_core.errors import UsageError

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here; never the CPU where a GPU was asked for."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if count else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        found = f"{count} of them (numbered from 0)" if count else "none"
        raise UsageError(f"--device {device} was asked for, and this machine has {found}; give --device auto or cpu")
    return resolved


def resolve_dtype(dtype: str, device: str, config: ModelConfig) -> DtypeName:
    """What `auto` means for a model on `device`: the fastest precision that keeps a cosine of 0.999 to float32.

    On GPUs float16 is as fast as bfloat16 and eight times as exact, but has its narrow range; it is taken where
    bfloat16 does not do. CPUs are slow at it: there float32 takes its place. The GPU need not be on this machine.
    """
    if dtype != "auto":
        return cast(DtypeName, dtype)
    if device.startswith("cuda"):
        return "bfloat16" if config.bf16 and not _old_gpu() else "float16"
    return "bfloat16" if config.bf16 and _fast_bf16_cpu() else "float32"


def _old_gpu() -> bool:
    """Whether the GPU here, if there is one, lacks bfloat16."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)


def _fast_bf16_cpu() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
