"""The blocks of a Ray dataset, streamed to the driver by reference.

All use of `iter_internal_ref_bundles` is here. Ray calls it a developer API, so it may change with a version of Ray:
tests/pipelines/cluster/test_streaming.py would fail first.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ray.data import Dataset


@dataclass(frozen=True)
class Blocks:
    """References to some blocks, which can be arguments of Ray tasks. The data stays where it is."""

    refs: list[Any]
    rows: int
    bytes: int


def stream_blocks(dataset: Dataset) -> Generator[Blocks]:
    """Run the dataset, and yield each of its blocks that has rows once, as soon as it is there.

    What a stage raises is raised here.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        if rows := bundle.num_rows():
            yield Blocks(list(bundle.block_refs), rows, bundle.size_bytes())
