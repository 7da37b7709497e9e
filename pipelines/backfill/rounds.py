"""Rounds over a table that others write to: each reads the fragments that are not finished, until there are none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import lance

from pipelines.backfill.filler import Filler
from pipelines.backfill.finished import Filling
from pipelines.backfill.flow import Flow, begin_round, stream
from pipelines.backfill.job import Job
from pipelines.backfill.select import Targets
from pipelines.cluster.streaming import stream_blocks
from pipelines.events import Reading, ReadingEnded
from pipelines.stages.pool import Stages
from pipelines.tables.dataset import TableVersion

ROUNDS: Final = 20  # of others' changes that are followed; then what is left waits for another run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """What all rounds of a run share."""

    job: Job
    filler: Filler
    stages: Stages
    patience: float
    after_commit: Callable[[], None] = field(default=lambda: None)

    def run(self) -> tuple[lance.LanceDataset, list[int]]:
        """Fill the table. Returns the version that was looked at last, and its fragments that are not finished."""
        job, work, flow = self.job, self.filler.work, self.flow()
        for number in range(ROUNDS + 1):
            table = work.open()
            known = self.filler.judged if job.config.read_all else self.filler.judged | work.finished.digests
            left = unfinished(table, work.fillings, known)
            if not left or number == ROUNDS:
                break
            if number:
                log.info("%s: others changed %d fragments meanwhile, which are looked at again", work.uri, len(left))
            version = TableVersion(work.uri, table.version)
            units = begin_round(flow, version, left, self.filler)
            work.events.report(Reading(sum(unit.rows for unit in units) + self.filler.counts.read, exact=True))
            targets = Targets(job.columns, self.filler.parked)
            blocks = stream_blocks(flow.build(units, job.rows.at(table.version), targets), self.patience)
            stream(blocks, len(job.targets), self.filler, self.after_commit)
        work.events.report(ReadingEnded(self.filler.counts))
        return table, left

    def flow(self) -> Flow:
        """What rows go through."""
        job = self.job
        return Flow(job.rows, job.rules, job.encodings, job.resources, self.stages)


def unfinished(table: lance.LanceDataset, fillings: Sequence[Filling], known: Set[str]) -> list[int]:
    """The fragments of which some column is not known to be finished."""
    found = []
    for fragment in table.get_fragments():
        files = fragment.metadata.files
        if not all(filling.digest(files) in known for filling in fillings):
            found.append(int(fragment.fragment_id))
    return found
