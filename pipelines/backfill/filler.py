"""On the driver: what has arrived of each fragment, and the commits. What is committed is the truth."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import lance
import ray
from lance.fragment import DataFile

from pipelines.backfill.arrived import Arrival, OfFragment
from pipelines.backfill.column_files import Filled, Part, fill_fragment, reject_object
from pipelines.backfill.finished import Filling, Finished
from pipelines.backfill.parked import Parked, write_parked
from pipelines.batch_stats import added_amounts
from pipelines.cluster.logs import log_again
from pipelines.cluster.session import on_a_worker
from pipelines.events import (
    Arrived,
    BundleCommitted,
    Counts,
    Events,
    FragmentsWritten,
    RejectsCommitted,
    TableCommitted,
    VectorsParked,
)
from pipelines.reasons import EMPTY_RECORD, REASONS
from pipelines.records import Pictured
from pipelines.signals import deferred
from pipelines.tables.dataset import TableVersion, quoted
from pipelines.tables.lease import Lease
from pipelines.tables.transactions import CommitConflictError, append, replace_columns
from vista_core import VistaError

COMMIT_ROWS: Final = 262_144
COMMIT_BYTES: Final = 256 << 20  # of vectors that wait in Ray's memory
ATTEMPTS: Final = 50  # each is one small commit, on top of whatever others committed

log = logging.getLogger(__name__)


@dataclass
class Fragment:
    """What has arrived of a fragment in a round."""

    units: int
    arrived: OfFragment = field(default_factory=OfFragment)
    decided: list[Any] = field(default_factory=list)  # references to blocks with rows that are decided
    encoded: list[Any] = field(default_factory=list)  # and to blocks with their vectors

    @property
    def is_complete(self) -> bool:
        """True if every row is decided, or unchanged."""
        here = self.arrived
        return here.ended == self.units and here.read == here.unchanged + here.decided


@dataclass(frozen=True)
class Work:
    """The tables and columns of a run."""

    uri: str
    fillings: tuple[Filling, ...]
    lease: Lease
    rejects_uri: str
    finished: Finished
    events: Events
    is_whole: bool  # False if a filter keeps rows out
    commit_seconds: float

    def digests(self, files: Sequence[DataFile]) -> list[str]:
        """Of a fragment with these files, for each column."""
        return [each.digest(files) for each in self.fillings]

    def open(self) -> lance.LanceDataset:
        """The latest version. Raises VistaError if another run or client took the lease, or the columns."""
        table = lance.dataset(self.uri)
        self.lease.check(table)
        for filling in self.fillings:
            column = filling.column
            now = Filling.of(table, column, filling.content, ()).fields
            if now != filling.fields:
                raise VistaError(
                    f"{self.uri}: another client dropped, renamed or cast the column `{column.name}` or "
                    f"`{column.fingerprint}` while it was filled. Run the same command again"
                )
        return table


class Filler:
    """Collects what arrives, and commits the fragments that are complete. What must wait longer is parked."""

    def __init__(self, work: Work, parked: Parked) -> None:
        self.work = work
        self.parked = parked
        self.counts = Counts()
        self.judged: set[str] = set()  # digests of fragments that wait for stores or servers: a later run tries again
        self.version_of: dict[int, int] = {}  # by fragment: the version of its last commit
        self.moved = 0  # fragments that others replaced while they were filled
        self.last_version: int | None = None
        self.begin(TableVersion(work.uri, 0), {})

    def begin(self, table: TableVersion, units: dict[int, int]) -> None:
        """Begin a round: the fragments of a version that are read, each with the number of its units."""
        self.table = table
        self.fragments = {number: Fragment(count) for number, count in units.items()}
        self.since = time.monotonic()
        self.waiting_rows = self.waiting_bytes = 0
        self.pictures: list[Pictured] = []

    def add(self, arrival: Arrival, decided: Any, encoded: Any) -> None:
        """What is known of some blocks, and references to their rows and vectors."""
        log_again(arrival.warnings)
        for number, counts in arrival.fragments.items():
            fragment = self.fragments[number]
            fragment.arrived += counts
            if counts.decided:
                fragment.decided.append(decided)
                if arrival.encoded:
                    fragment.encoded.append(encoded)
        self.waiting_rows += sum(each.decided for each in arrival.fragments.values())
        self.waiting_bytes += arrival.bytes
        self.pictures += arrival.pictures
        total = self.counts
        self.counts = dataclasses.replace(
            total,
            read=total.read + sum(each.read for each in arrival.fragments.values()),
            unchanged=total.unchanged + sum(each.unchanged for each in arrival.fragments.values()),
            seconds=added_amounts(total.seconds, arrival.seconds),
            work=added_amounts(total.work, arrival.work),
        )
        self.work.events.report(Arrived(self.waiting_rows, self.counts))

    @property
    def is_due(self) -> bool:
        """True if enough waits for a commit, or has waited long enough."""
        full = self.waiting_rows >= COMMIT_ROWS or self.waiting_bytes >= COMMIT_BYTES
        return full or time.monotonic() - self.since >= self.work.commit_seconds

    @deferred()
    def settle(self) -> None:
        """Commit what is complete, and park the vectors of what isn't, so that a killed run costs none of them."""
        complete = [number for number, each in self.fragments.items() if each.is_complete]
        self.commit(complete)
        self.park([number for number, each in self.fragments.items() if each.encoded])
        self.since = time.monotonic()
        self.waiting_rows = self.waiting_bytes = 0

    def park(self, numbers: Sequence[int]) -> None:
        """Write the vectors of some fragments, and let Ray forget them."""
        references = unique(ref for number in numbers for ref in self.fragments[number].encoded)
        if not references:
            return
        columns = [each.column for each in self.work.fillings]
        written = on_a_worker(write_parked, self.parked.uri, columns, list(numbers), *references)
        self.work.open()  # the lease, which doesn't fence other tables
        self.parked = self.parked.added(written)
        for number in numbers:
            self.fragments[number].encoded.clear()
        self.work.events.report(VectorsParked())

    def commit(self, numbers: Sequence[int]) -> None:
        """Commit fragments that are complete. Vectors of those that others replaced are parked for the next round."""
        changed = [number for number in numbers if self.fragments[number].decided]
        unchanged = [number for number in numbers if not self.fragments[number].decided]
        filled = self.written(changed)
        if filled:
            self.work.events.report(FragmentsWritten())
        committed = self.committed(filled)
        if committed:
            self.work.events.report(TableCommitted())
            self.reject(committed)
            self.note_finished(committed)
        lost = [each.fragment for each in filled if each not in committed]
        self.park(lost)
        self.forget(lost)
        self.note_unchanged(unchanged)
        for number in numbers:
            del self.fragments[number]
        if committed:
            self.work.events.report(BundleCommitted(self.counts, self.pictures))
            self.pictures = []

    def forget(self, numbers: Sequence[int]) -> None:
        """Take back what was counted of fragments that others replaced: their rows are read again."""
        self.moved += len(numbers)
        total = self.counts
        for number in numbers:
            here = self.fragments[number].arrived
            total = dataclasses.replace(total, read=total.read - here.read, unchanged=total.unchanged - here.unchanged)
        self.counts = total

    def written(self, numbers: Sequence[int]) -> list[Filled]:
        """Have the files of some fragments written, side by side."""
        columns = tuple(each.column for each in self.work.fillings)
        tasks = []
        for number in numbers:
            fragment = self.fragments[number]
            part = Part(self.table, number, columns, self.parked, self.work.rejects_uri, self.work.lease.run)
            decided, encoded = unique(fragment.decided), unique(fragment.encoded)
            tasks.append(filling_task().remote(part, len(decided), *decided, *encoded))
        return list(ray.get(tasks))

    def committed(self, filled: Sequence[Filled]) -> list[Filled]:
        """Commit files on top of the latest version: of those fragments whose content nobody changed since."""
        base = self.table.open()
        before = {each.fragment: self.files_of(base, each.fragment) for each in filled}
        left = list(filled)
        for _ in range(ATTEMPTS):
            table = self.work.open()
            left = [each for each in left if self.files_of(table, each.fragment) == before[each.fragment]]
            if not left:
                return []
            try:
                table = replace_columns(table, {each.fragment: each.file for each in left})
            except CommitConflictError as conflict:
                log.info("another writer committed to %s, so the commit is tried again: %s", self.work.uri, conflict)
                continue
            self.last_version = int(table.version)
            self.version_of |= dict.fromkeys((each.fragment for each in left), int(table.version))
            return left
        raise VistaError(
            f"{self.work.uri}: other writers changed the rows of a commit {ATTEMPTS} times in a row while it was "
            "tried. Run the same command again: what was encoded is kept"
        )

    def files_of(self, table: lance.LanceDataset, number: int) -> list[str] | None:
        """What stands for the content and the vectors of a fragment; None if it is gone."""
        fragment = table.get_fragment(number)
        return None if fragment is None else self.work.digests(fragment.metadata.files)

    def note_finished(self, committed: Iterable[Filled]) -> None:
        """Note the committed fragments as judged in this run, and as finished if nothing of them can be tried again.

        Their rejects are in `NAME_rejects` by now: a fragment that is finished is not looked at again.
        """
        finished: list[str] = []
        table = lance.dataset(self.work.uri, version=self.last_version)
        for each in committed:
            digests = self.files_of(table, each.fragment)
            assert digests is not None, "this version has it"
            self.judged |= set(digests)
            if self.work.is_whole and not any(REASONS[reason].retryable for reason in each.reasons):
                finished += digests
        self.work.finished.add(finished)

    def note_unchanged(self, numbers: Sequence[int]) -> None:
        """Note fragments in which every row is up to date."""
        base = self.table.open()
        digests = [digest for number in numbers for digest in self.files_of(base, number) or ()]
        self.judged |= set(digests)
        if self.work.is_whole:
            self.work.finished.add(digests)

    def reject(self, committed: Sequence[Filled]) -> None:
        """Append the rejects of committed fragments, in place of those of earlier runs, and count what they have."""
        rejects = lance.dataset(self.work.rejects_uri)
        if self.work.is_whole and rejects.count_rows():
            names = ", ".join(quoted(reject_object(self.work.uri, each.fragment)) for each in committed)
            rejects.delete(f"object IN ({names}) AND run < {quoted(self.work.lease.run)}")
        if new := [text for each in committed for text in each.rejects]:
            append(lance.dataset(self.work.rejects_uri), new)
        self.work.events.report(RejectsCommitted())
        total = self.counts
        for each in committed:
            decided = self.fragments[each.fragment].arrived.decided
            empty, reasons = each.reasons[EMPTY_RECORD.name], each.reasons.copy()
            del reasons[EMPTY_RECORD.name]
            total = dataclasses.replace(
                total,
                written=total.written + decided - reasons.total() - empty,
                empty=total.empty + empty,
                reasons=total.reasons + reasons,
            )
        self.counts = total


def unique(references: Iterable[Any]) -> list[Any]:
    """References without repetitions: a block may have rows of several fragments."""
    return [*dict.fromkeys(references)]


@functools.cache
def filling_task() -> Any:
    """`fill_fragment` as a Ray task that reserves nothing: stages under backpressure keep their CPUs meanwhile."""
    return ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(fill_fragment)
