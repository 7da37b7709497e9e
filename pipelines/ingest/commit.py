"""On the driver: the single committer. What is committed is the truth; everything else can be done again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import lance
from pyroaring import BitMap64

from pipelines.batch_stats import added_amounts
from pipelines.cluster.logs import log_again
from pipelines.events import (
    BundleCommitted,
    Counted,
    Counts,
    Events,
    FragmentsWritten,
    RejectsCommitted,
    TableCommitted,
)
from pipelines.ingest.fragments import Bundle, Replacement, Written
from pipelines.ingest.manifest import Manifest
from pipelines.records import Misfits
from pipelines.stages.select import Decided
from pipelines.tables.dataset import TableVersion, quoted
from pipelines.tables.lease import Lease
from pipelines.tables.transactions import CommitConflictError, append, replace_fragments, upsert
from pipelines.tables.vector_column import VectorColumn
from vista_core import VistaError

ATTEMPTS = 10
# A lookup scans the rows that the index on `id` doesn't cover yet; but an update of the index writes all of it.
REINDEX_ROWS, REINDEX_SHARE = 1_000_000, 0.25

log = logging.getLogger(__name__)

Write = Callable[[Bundle], Written | Replacement]


@dataclass(frozen=True)
class Target:
    """What a run commits to. `table` is the version at the start of the run."""

    table: lance.LanceDataset
    column: VectorColumn  # of the first slot
    rejects: lance.LanceDataset
    manifest: Manifest
    keep_stale: bool = False  # True if rows stay whose record was rejected
    has_ids: bool = True  # False if hashes of the content are the ids
    others: tuple[VectorColumn, ...] = ()  # of the other slots


class Committer:
    """Commits bundles one after the other, each on top of exactly the version that it was resolved against."""

    def __init__(self, target: Target, lease: Lease, events: Events) -> None:
        self.target = target
        self.lease = lease
        self.events = events
        self.base = TableVersion(target.table.uri, target.table.version)
        self.table = target.table  # the latest version that this run knows
        self.rejects = target.rejects
        self.counts = Counts()
        self.accounted = BitMap64()  # addresses of the base version that a record accounts for
        self.retained = BitMap64()  # addresses of the base version that stay although their record was rejected
        self.unindexed = 0

    @property
    def run(self) -> str:
        """The run that commits."""
        return self.lease.run

    @property
    def manifest(self) -> Manifest:
        """The files that this run has read."""
        return self.target.manifest

    def commit(self, write: Write) -> None:
        """Have a bundle written and commit it; if anybody else committed meanwhile, have it resolved and written again.

        Raises LeaseLostError if another run took the table over, and VistaError after ten conflicts in a row.
        """
        replaced: dict[str, str | None] = {}
        conflicts = 0
        while conflicts < ATTEMPTS:
            self.lease.check(self.table)  # in each version that something is going to be committed on
            written = write(self.bundle(replaced))
            self.events.report(FragmentsWritten())
            try:
                if isinstance(written, Replacement):
                    replace_fragments(self.table, written.emptied, written.fragments)
                    self.events.report(TableCommitted())
                    replaced |= written.earlier_owners
                    self.counts = dataclasses.replace(self.counts, deleted=self.counts.deleted + written.deleted)
                    self.reopen()
                    continue
                self.table = upsert(self.table, written.fragments, written.changed)
            except CommitConflictError as conflict:
                log.warning(
                    "another writer committed to %s, resolving against its version: %s", self.base.uri, conflict
                )
                self.reopen()
                conflicts += 1
                continue
            self.events.report(TableCommitted())
            self.finish(written)
            return
        raise VistaError(
            f"{self.base.uri}: another writer committed {ATTEMPTS} times in a row while this run tried to. "
            "Stop the other writer and run the same command again: what was committed stays"
        )

    def bundle(self, replaced: Mapping[str, str | None]) -> Bundle:
        """What the worker is told that writes the next bundle."""
        return Bundle(
            table=TableVersion(self.table.uri, self.table.version),
            base=self.base,
            column=self.target.column,
            rejects_uri=self.rejects.uri,
            run=self.run,
            accounted=self.accounted.serialize(),
            keep_stale=self.target.keep_stale,
            has_ids=self.target.has_ids,
            already_replaced=dict(replaced),
            others=self.target.others,
        )

    def finish(self, written: Written) -> None:
        """The rows of a bundle are in the table: now its rejects, the counts, and the manifest."""
        # Commits to the other tables are not fenced by the lease: a fenced-out driver must not append rejects.
        self.lease.check(lance.dataset(self.base.uri))
        if written.rejects:
            self.rejects = append(self.rejects, written.rejects)
        self.events.report(RejectsCommitted())
        log_again(written.warnings)
        self.accounted = BitMap64.deserialize(written.accounted)
        self.retained |= BitMap64.deserialize(written.retained)
        self.unindexed += written.written + written.rewritten
        self.counts = added(self.counts, written)
        self.manifest.count(written.stats)
        self.manifest.record()
        self.events.report(BundleCommitted(self.counts, written.pictures))

    def decided(self) -> Decided:
        """What this run has decided so far of the ids that its records have."""
        return Decided(TableVersion(self.base.uri, self.table.version), self.run, self.accounted.serialize())

    def reopen(self) -> None:
        """Go on with the latest version, in which others may have committed."""
        self.table = lance.dataset(self.base.uri)

    def index_is_behind(self) -> bool:
        """True if so many rows are not in the index on `id` that lookups are slow."""
        return self.unindexed >= max(REINDEX_ROWS, REINDEX_SHARE * self.table.count_rows())

    def reopen_after_indexing(self) -> None:
        """Go on with the version in which the index on `id` covers every row."""
        self.reopen()
        self.unindexed = 0

    def maintain(self, upkeep: Callable[[lance.LanceDataset], lance.LanceDataset]) -> None:
        """Have upkeep done on the table, and go on with the version that it returns.

        Raises LeaseLostError if another run took the table over, also while the upkeep was done: the version is then
        that run's.
        """
        self.lease.check(self.table)
        self.table = upkeep(self.table)
        self.lease.check(self.table)

    def count_skipped(self, rows: int, rejected: int) -> None:
        """Set the number of rows of skipped files, and of records of theirs that an earlier run rejected."""
        self.set_counts(dataclasses.replace(self.counts, skipped=rows, skipped_rejected=rejected))

    def count_missing(self, rows: int) -> None:
        """Set the number of rows whose record is no longer in the source."""
        self.set_counts(dataclasses.replace(self.counts, missing=rows))

    def set_counts(self, counts: Counts) -> None:
        """Report counts that no bundle carries."""
        self.counts = counts
        self.events.report(Counted(counts))

    def clear_stale_rejects(self, last_read: Mapping[str, str]) -> None:
        """Remove the rejects of files that are older than the run that read the file in full last (`last_read`).

        Memory grows with the number of files that have rejects.
        """
        stale: dict[str, set[str]] = {}
        for batch in self.rejects.scanner(columns=["object", "run"]).to_batches():
            for file, run in set(zip(*(batch.column(at).to_pylist() for at in (0, 1)), strict=True)):
                if run < last_read.get(file, ""):  # a later run has a greater id
                    stale.setdefault(last_read[file], set()).add(file)
        for run, files in stale.items():
            for start in range(0, len(files), 1000):
                chunk = ", ".join(map(quoted, sorted(files)[start : start + 1000]))
                self.rejects.delete(f"run < {quoted(run)} AND object IN ({chunk})")
        self.rejects = lance.dataset(self.rejects.uri)

    def example_of(self, reason: str) -> str:
        """The message of one of this run's rejects."""
        wanted = f"run = {quoted(self.run)} AND reason = {quoted(reason)}"
        [message] = self.rejects.to_table(columns=["message"], filter=wanted, limit=1)["message"].to_pylist()
        return str(message)


def added(counts: Counts, written: Written) -> Counts:
    """The counts with those of a committed bundle."""
    return dataclasses.replace(
        counts,
        read=counts.read + written.read,
        written=counts.written + written.written,
        rewritten=counts.rewritten + written.rewritten,
        unchanged=counts.unchanged + written.unchanged,
        removed=counts.removed + written.removed,
        deleted=counts.deleted + written.deleted,
        reasons=counts.reasons + written.reasons,
        misfits=added_misfits(counts.misfits, written.misfits),
        seconds=added_amounts(counts.seconds, written.seconds),
        work=added_amounts(counts.work, written.work),
    )


def added_misfits(before: Mapping[str, Misfits], misfits: Iterable[Misfits]) -> dict[str, Misfits]:
    """The misfits of each column, with the first example."""
    found = dict(before)
    for each in misfits:
        known = found.get(each.column, each._replace(number=0))
        found[each.column] = known._replace(number=known.number + each.number)
    return found
