"""The blocks of a Ray dataset, streamed to the driver by reference.

All use of `iter_internal_ref_bundles` is here. Ray calls it a developer API, so it may change with a version of Ray:
tests/pipelines/cluster/test_streaming.py would fail first.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ray.data import Dataset
from ray.exceptions import ActorDiedError, GetTimeoutError

from pipelines.cluster.waiting import PATIENCE_SECONDS, describe_ray, naming_lost_nodes, saying_why
from vista_core import VistaError


@dataclass(frozen=True)
class Blocks:
    """References to some blocks, which can be arguments of Ray tasks. The data stays where it is."""

    refs: list[Any]
    rows: int
    bytes: int


def stream_blocks(dataset: Dataset, patience: float = PATIENCE_SECONDS) -> Generator[Blocks]:
    """Run the dataset, and yield each of its blocks that has rows once, as soon as it is there.

    What a stage raises is raised here. Raises VistaError if the actors of a stage can't start. If no block comes for
    `patience` seconds, the log says what Ray waits for.
    """
    try:
        with naming_lost_nodes():
            with waiting(patience):  # for the actors
                bundles = dataset.iter_internal_ref_bundles()
            while True:
                with waiting(patience):
                    bundle = next(bundles, None)
                if bundle is None:
                    return
                if rows := bundle.num_rows():
                    yield Blocks(list(bundle.block_refs), rows, bundle.size_bytes())
    except GetTimeoutError as error:
        raise VistaError(f"the encode actors could not start: {error} {describe_ray()}") from error
    except ActorDiedError as error:
        if not error.actor_init_failed:
            raise
        raise VistaError(f"an encode actor could not start: {cause_in(str(error))}") from error


def waiting(patience: float) -> AbstractContextManager[None]:
    """While the next block is waited for."""
    return saying_why("no rows", describe_ray, patience)


def cause_in(text: str) -> str:
    """The error that an actor's constructor raised, from the traceback that is all Ray keeps of it."""
    _, _, last = text.rpartition('\n  File "')
    lines = itertools.dropwhile(lambda line: line.startswith("    "), last.splitlines()[1:])  # source code
    return "\n".join(lines).strip() or text
