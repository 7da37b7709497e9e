"""The stream of a backfill: from the rows of a table's fragments to encoded ones, and from these to commits."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import Dataset, TaskPoolStrategy

from pipelines.backfill.arrived import split
from pipelines.backfill.content import Rows, TableRows
from pipelines.backfill.filler import Filler
from pipelines.backfill.select import Targets, read_and_select, task_of
from pipelines.cluster.resources import Resources
from pipelines.cluster.streaming import Blocks
from pipelines.fetching.locations import FetchRules
from pipelines.signals import deferred
from pipelines.stages.pool import Encoding, Pool, Stages
from pipelines.tables.dataset import TableVersion


@dataclass(frozen=True)
class Flow:
    """What rows go through."""

    rows: TableRows
    rules: FetchRules
    encodings: Sequence[Encoding]
    uses: Resources
    stages: Stages

    def build(self, units: Sequence[Rows], rows: TableRows, targets: Targets) -> Dataset:
        """The flow, from units to encoded rows."""
        readers = min(self.uses.readers, len(units))
        records = ray.data.from_items([task_of(unit) for unit in units], override_num_blocks=len(units)).map_batches(
            functools.partial(
                read_and_select, rows=rows, rules=self.rules, targets=targets, limits=self.stages.reading
            ),
            batch_size=1,
            num_cpus=self.uses.read_cpus,
            compute=TaskPoolStrategy(size=readers),
        )
        return self.pool.encoded(records, readers)

    @property
    def pool(self) -> Pool:
        """What rows go through behind select."""
        fetching = self.rules if self.rows.external_images else None
        return Pool(self.encodings, self.uses, self.stages, fetching=fetching)

    def units(self, table: TableVersion, fragments: Sequence[int]) -> list[Rows]:
        """The units of work of some fragments of a version."""
        return self.rows.at(table.version).units(fragments)


def begin_round(flow: Flow, table: TableVersion, fragments: Sequence[int], filler: Filler) -> list[Rows]:
    """Make `filler` expect the rows of some fragments, and return the units in which they are read."""
    units = flow.units(table, fragments)
    filler.begin(table, Counter(unit.fragment for unit in units))
    return units


def stream(blocks: Generator[Blocks], slots: int, filler: Filler, after_commit: Callable[[], None]) -> None:
    """Run the flow, and commit what comes out of it.

    If a signal ends the run, the flow ends, and what came out of it until then is committed or kept.
    """
    task = splitting_task()
    try:
        with closing(blocks):
            for arrived in blocks:
                with deferred():
                    add(filler, task.remote(slots, *arrived.refs))
                if filler.is_due:
                    filler.settle()
                    after_commit()
    except KeyboardInterrupt:
        filler.settle()
        raise
    filler.settle()


def add(filler: Filler, divided: list[Any]) -> None:
    """Hand over what has arrived: the driver gets the counts, and references to the rest."""
    counts, decided, encoded = divided
    filler.add(ray.get(counts), decided, encoded)


@functools.cache
def splitting_task() -> Any:
    """`split` as a Ray task, made once."""
    return ray.remote(num_cpus=0, num_returns=3, scheduling_strategy="SPREAD")(split)
