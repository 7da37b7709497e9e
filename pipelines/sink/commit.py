"""On the driver: the single committer. What is committed is the truth; all else can be done again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import lance
from lance.commit import CommitConflictError
from pyroaring import BitMap64

from pipelines.sink.fragments import Bundle, Refill, Written
from pipelines.sink.lease import Lease
from pipelines.sink.read_objects import ReadObjects
from pipelines.sink.table import TableVersion, quoted
from vista_core import VistaError

ATTEMPTS = 10
# Lookups scan the rows that the id index doesn't cover yet; but an update of the index writes all of it.
REINDEX_ROWS, REINDEX_SHARE = 1_000_000, 0.25

log = logging.getLogger(__name__)

Write = Callable[[Bundle], Written | Refill]


@dataclass
class Counts:
    """Rows of a run so far; `rewritten` are those whose vector was copied, since only other columns changed."""

    read: int = 0
    written: int = 0
    rewritten: int = 0
    unchanged: int = 0
    removed: int = 0  # rows that left the table, since their record turned bad; they are among the rejected
    missing: int = 0  # rows of the table whose record is no longer in the source
    deleted: int = 0  # those of them that left it
    skipped: int = 0  # rows of the table whose object was not read, being as it was
    skipped_rejected: int = 0  # records of those objects that an earlier run rejected
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rejected(self) -> int:
        """Rows rejected for whatever reason."""
        return self.reasons.total()

    @property
    def settled(self) -> int:
        """Rows of which it is known what became of them; equals `read` at the end of a run."""
        return self.written + self.rewritten + self.unchanged + self.rejected


class Committer:
    """Commits bundles one after the other, each on top of exactly the version that it was settled against."""

    def __init__(
        self,
        table: lance.LanceDataset,
        rejects: lance.LanceDataset,
        objects: ReadObjects,
        lease: Lease,
        keep_stale: bool = False,
    ) -> None:
        """`table` is as it was when the lease was taken; `keep_stale` keeps rows whose record turned bad."""
        self.table = table
        self.rejects = rejects
        self.objects = objects
        self.lease = lease
        self.run = lease.run
        self.keep_stale = keep_stale
        self.base = TableVersion(table.uri, table.version)
        self.counts = Counts()
        self.matched = BitMap64()
        self.named = BitMap64()
        self.unindexed = 0

    def commit(self, write: Write) -> None:
        """Have a bundle written and commit it; if somebody else committed in between, settle and write it again."""
        refilled: dict[str, str | None] = {}
        for _ in range(ATTEMPTS):
            self.lease.check(self.table)  # on each version that something is going to be built on
            version = TableVersion(self.table.uri, self.table.version)
            matched = self.matched.serialize()
            written = write(Bundle(version, self.base, self.rejects.uri, self.run, matched, self.keep_stale, refilled))
            try:
                if isinstance(written, Refill):
                    commit_refill(self.table, written)
                    refilled = refilled | written.displaced
                    self.table = lance.dataset(self.table.uri)
                    continue
                self.table = commit_table(self.table, written)
            except CommitConflictError as conflict:
                log.warning("another writer committed to %s, resolving against it: %s", self.table.uri, conflict)
                self.table = lance.dataset(self.table.uri)
                continue
            # Appends to the other tables are not fenced: who slept through a takeover must not speak of old rejects.
            self.lease.check(lance.dataset(self.table.uri))
            self.commit_rejects(written)
            self.count(written)
            self.record_objects()
            return
        raise VistaError(
            f"{self.table.uri}: another writer committed {ATTEMPTS} times in a row while this run tried to. "
            "Stop the other writer and run the same command again: what was committed stays"
        )

    def commit_rejects(self, written: Written) -> None:
        """Append the bundle's rejects. Only this job writes there, so a plain append is enough."""
        if written.rejects:
            operation = lance.LanceOperation.Append([from_json(text) for text in written.rejects])
            self.rejects = lance.LanceDataset.commit(self.rejects.uri, operation, read_version=self.rejects.version)

    def record_objects(self) -> None:
        """Remember the objects that were read in full with what is committed now."""
        self.objects.record()

    def example_of(self, reason: str) -> str:
        """What one of this run's rejects of a reason says."""
        wanted = f"run = {quoted(self.run)} AND reason = {quoted(reason)}"
        [message] = self.rejects.to_table(columns=["message"], filter=wanted, limit=1)["message"].to_pylist()
        return str(message)

    def index_is_behind(self) -> bool:
        """Whether so many rows were added that lookups suffer."""
        return self.unindexed >= max(REINDEX_ROWS, REINDEX_SHARE * self.table.count_rows())

    def index_was_updated(self) -> None:
        """Go on with the table as it is then."""
        self.table = lance.dataset(self.table.uri)
        self.unindexed = 0

    def count(self, written: Written) -> None:
        """Add a committed bundle to the counts."""
        self.counts.read += written.read
        self.counts.written += written.written
        self.counts.rewritten += written.rewritten
        self.counts.unchanged += written.unchanged
        self.counts.removed += written.removed
        self.counts.reasons.update(written.reasons)
        self.matched = BitMap64.deserialize(written.matched)
        self.named |= BitMap64.deserialize(written.named)
        self.objects.count(written.shares)
        self.unindexed += written.written + written.rewritten


def commit_table(table: lance.LanceDataset, written: Written) -> lance.LanceDataset:
    """Put a bundle's fragments into the table in one transaction: new rows in, the rows they replace out.

    A `Merge` at max_retries=0 conflicts with every other commit since `table.version`, so what was settled against
    that version still holds.
    """
    if not written.fragments and not written.shrunk:
        return table
    shrunk = {fragment.id: fragment for fragment in map(from_json, written.shrunk)}
    kept = [shrunk.get(fragment.fragment_id, fragment.metadata) for fragment in table.get_fragments()]
    operation = lance.LanceOperation.Merge(kept + [from_json(text) for text in written.fragments], table.lance_schema)
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def commit_refill(table: lance.LanceDataset, refill: Refill) -> None:
    """Replace fragments of which every row is replaced; a `Merge` refuses to drop one.

    An `Update` passes other writers' appends instead of conflicting with them. That does no harm, since it brings back
    exactly the ids that it removes, and the rest of the bundle is settled anew on top of whatever version comes out.
    """
    operation = lance.LanceOperation.Update(
        removed_fragment_ids=refill.emptied,
        updated_fragments=[],
        new_fragments=[from_json(text) for text in refill.fragments],
        fields_modified=[],
    )
    lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def from_json(text: str) -> lance.FragmentMetadata:
    """Back from `table.fragments_json`."""
    return lance.FragmentMetadata.from_json(text)


def clear_stale_rejects(rejects: lance.LanceDataset, last_read: Mapping[str, str]) -> lance.LanceDataset:
    """Remove the rejects of objects that were found before the run that read the object in full last.

    `last_read` says which run that is. Memory is that of the objects that have rejects.
    """
    stale: dict[str, set[str]] = {}
    for batch in rejects.scanner(columns=["object", "run"]).to_batches():
        for name, run in set(zip(*(batch.column(at).to_pylist() for at in (0, 1)), strict=True)):
            if run < last_read.get(name, ""):  # run ids sort by time; a later run's are its own business
                stale.setdefault(last_read[name], set()).add(name)
    for run, names in stale.items():
        for start in range(0, len(names), 1000):
            chunk = ", ".join(map(quoted, sorted(names)[start : start + 1000]))
            rejects.delete(f"run < {quoted(run)} AND object IN ({chunk})")
    return lance.dataset(rejects.uri)
