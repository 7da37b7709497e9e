"""Where the model runs, and in which precision."""

from typing import Literal

import torch

from vista_core.config import ModelConfig
from vista_core.errors import UsageError

DtypeName = Literal["float32", "bfloat16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def resolve_dtype(dtype: str, device: torch.device, config: ModelConfig) -> DtypeName:
    """What `auto` means for a model on a device: bfloat16 where both are good at it."""
    if dtype == "float32" or (dtype == "auto" and not (config.bf16 and _fast_bf16(device))):
        return "float32"
    return "bfloat16"


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
