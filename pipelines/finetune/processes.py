"""The processes that train together, and what they exchange. Each has a copy of the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

BUCKET: Final = 1 << 24  # values that are exchanged at once: few messages, and little memory for copies


@dataclass(frozen=True)
class Processes:
    """One process among `count`; `rank` counts from 0."""

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Those of torch's process group, if this process has joined one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def leads(self) -> bool:
        """True in the process that reports and saves."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The rows of all processes, by rank; each may have another number of rows. Without gradients."""
        if self.count == 1:
            return [rows]
        mine = torch.tensor([len(rows)], device=rows.device)
        lengths = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(lengths, mine)
        counts = [int(each) for each in lengths]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(found, padded)
        return [each[:count] for each, count in zip(found, counts, strict=True)]

    def collect(self, value: T) -> list[T]:
        """What each process has, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def leaders(self, value: float, device: torch.device) -> float:
        """The value that the leading process has."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum of those of all processes, which have them in the same order."""
        if self.count == 1:
            return
        bucket, values = list[Tensor](), 0
        for tensor in tensors:
            bucket.append(tensor)
            values += tensor.numel()
            if values >= BUCKET:
                add_up_at_once(bucket)
                bucket, values = [], 0
        if bucket:
            add_up_at_once(bucket)


def add_up_at_once(tensors: list[Tensor]) -> None:
    """Sum tensors of one precision over all processes, in place, by one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))
