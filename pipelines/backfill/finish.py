"""The end of a run: the gates, the mark that a column is complete, and publishing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.backfill.column_files import IN_FRAGMENT, reject_object
from pipelines.backfill.filler import Filler
from pipelines.backfill.gates import GATES, Evidence, Gate, in_scope, reject_rate
from pipelines.backfill.job import Job
from pipelines.backfill.rounds import unfinished
from pipelines.backfill.summary import Outcome
from pipelines.cluster.session import on_a_worker
from pipelines.cluster.tasks import on_workers
from pipelines.events import Judged, Publishing
from pipelines.gates.judge import TooManyRejectsError, judge, require
from pipelines.tables.beside_vectors import same_beside_vectors
from pipelines.tables.dataset import ADDRESS, published, quoted
from pipelines.tables.publish import publish, same_content
from pipelines.tables.search_setting import vector_indexes
from pipelines.tables.upkeep import UpkeepError, postponing
from pipelines.tables.vector_column import VectorColumn, completed

ROWS_AT_ONCE: Final = 1_000  # in one SQL condition
REJECTS_JUDGED_FROM: Final = 1_000  # rows; before that a few bad ones could end a run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """What the end of a run needs."""

    job: Job
    filler: Filler
    gates: Sequence[Gate] = GATES

    def evidence(self, table: lance.LanceDataset, fragments: Sequence[int]) -> Evidence:
        """What the gates judge by; `fragments` are those whose vectors are looked at."""
        job, work = self.job, self.filler.work
        return Evidence(
            counts=self.filler.counts,
            table=table,
            fillings=work.fillings,
            settings=[each.settings for each in job.targets],
            rows=job.rows,
            rules=job.rules,
            fragments=fragments,
            rejects=lance.dataset(work.rejects_uri),
            most_rejects=job.config.max_reject_rate,
            on_workers=on_workers,
        )

    def judge_rejects(self) -> None:
        """Raise TooManyRejectsError if more is rejected than the user allows, before that costs a whole night."""
        counts, limit = self.filler.counts, self.job.config.max_reject_rate
        if counts.resolved < REJECTS_JUDGED_FROM or counts.rejected <= limit * counts.resolved:
            return
        verdict = reject_rate(self.evidence(self.filler.work.open(), ()))
        if not verdict.passed:
            self.filler.work.events.report(Judged(verdict))
            raise TooManyRejectsError(f"{verdict.message}: what was committed stays")

    def finish(self, table: lance.LanceDataset, left: Sequence[int]) -> Outcome:
        """Judge the version of the table that was looked at last, name the columns complete, and publish them.

        `left` are fragments that others added or changed all the time, and that a later run fills. Raises GateError.
        """
        job, work, filler = self.job, self.filler.work, self.filler
        self.clear_rejects(table)
        filling = any(VectorColumn.of(table.schema, each.name).filling for each in job.columns)
        present = {int(each.fragment_id) for each in table.get_fragments()}
        judged = present - set(left) if filling else set(filler.version_of)  # a killed run has judged nothing
        if not left:
            verdicts = judge(self.gates, self.evidence(table, sorted(judged & present)), work.events)
            require(verdicts, otherwise="the column is not complete")
        for name in [each.name for each in job.columns]:
            self.build_stale_indexes(name)
        complete = not left and self.name_complete(table)
        latest = work.open()
        version, is_published = self.publish(latest) if complete else (int(latest.version), None)
        arrived = self.arrived(latest)
        if not left:
            filler.parked.remove()
        work.finished.prune({digest for each in latest.get_fragments() for digest in work.digests(each.metadata.files)})
        return Outcome(version, complete, is_published, latest.count_rows(), filler.moved, arrived)

    def name_complete(self, table: lance.LanceDataset) -> bool:
        """Mark the columns as complete, if every row was judged; with a filter, others may have been filled before."""
        complete = True
        for column in self.job.columns:
            is_marked = not VectorColumn.of(table.schema, column.name).filling
            scope = self.job.rows.where
            beside = scope and table.count_rows(
                in_scope(f"`{column.fingerprint}` IS NULL AND ({scope}) IS NOT TRUE", None)
            )
            if beside:
                complete = complete and is_marked
            elif not is_marked:
                completed(self.filler.work.open(), column.name)
        return complete

    def publish(self, latest: lance.LanceDataset) -> tuple[int, bool | None]:
        """Publish the latest version if it has exactly the rows that are published, which came through the gates.

        Returns the version that has the columns, and whether it is published; None for a table that never was.
        """
        work, now = self.filler.work, published(latest)
        if now is None:
            return int(latest.version), None
        before = lance.dataset(work.uri, version=now)
        if not same_beside_vectors(before, latest):
            return int(latest.version), False
        if not same_content(before, latest):
            work.events.report(Publishing(latest.version))
            publish(latest, work.lease, work.events)
            return int(latest.version), True
        return now, True

    def build_stale_indexes(self, column: str) -> None:
        """Build an index anew that another client built on the column while its vectors were filled."""
        work, filler = self.filler.work, self.filler
        table = work.open()
        for index in table.describe_indices():
            if index.name not in vector_indexes(table, column):
                continue
            stale = any(
                filler.version_of.get(fragment, 0) > segment.dataset_version_at_last_update
                for segment in index.segments
                for fragment in segment.fragment_ids
            )
            if stale:
                try:
                    with postponing(f"the index {index.name!r} lacks vectors that were filled after it was built"):
                        on_a_worker(partial(build_anew, work.uri), index.name)
                except UpkeepError as error:
                    log.warning("%s: %s. `vista index` builds it anew", work.uri, error)

    def arrived(self, latest: lance.LanceDataset) -> int:
        """Rows of fragments that came after the last look."""
        work = self.filler.work
        fragments = unfinished(latest, work.fillings, self.filler.judged | work.finished.digests)
        chosen = [each for each in latest.get_fragments() if each.fragment_id in set(fragments)]
        return sum(each.count_rows(self.job.rows.where) for each in chosen)

    def clear_rejects(self, table: lance.LanceDataset) -> None:
        """Remove the rejects of rows that are gone; where they were moved to, they were judged again."""
        work = self.filler.work
        rejects = lance.dataset(work.rejects_uri)
        of_the_table = rejects.to_table(["object", "row"], filter=f"object LIKE {quoted(work.uri + '#%')}")
        names = {reject_object(work.uri, each.fragment_id): each for each in table.get_fragments()}
        for name in of_the_table["object"].unique().to_pylist():
            mine = of_the_table.filter(pc.equal(of_the_table["object"], name))["row"].unique()
            gone = mine if name not in names else deleted_among(names[name], mine)
            for start in range(0, len(gone), ROWS_AT_ONCE):
                rows = ", ".join(map(str, gone[start : start + ROWS_AT_ONCE].to_pylist()))
                work.open()  # the lease, which doesn't fence other tables
                lance.dataset(work.rejects_uri).delete(f"object = {quoted(name)} AND row IN ({rows})")


def deleted_among(fragment: lance.LanceFragment, rows: pa.Array) -> pa.Array:
    """Those of some rows of a fragment that are deleted."""
    if not fragment.num_deletions:
        return rows.slice(0, 0)
    there = fragment.to_table(columns=[], with_row_address=True)[ADDRESS].to_numpy() & IN_FRAGMENT
    return rows.filter(pc.invert(pc.is_in(rows, value_set=pa.array(there.astype("int64")))))


def build_anew(uri: str, index: str) -> None:
    """Build an index anew, from all rows."""
    lance.dataset(uri).optimize.optimize_indices(index_names=[index], retrain=True)
