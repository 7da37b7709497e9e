"""Missing rows: rows of the table whose record is no longer in the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from pipelines.ingest.commit import Committer
from pipelines.ingest.fragments import Bundle, Replacement, Written, delete_rows
from pipelines.ingest.manifest import RowChecksum, checksums_of
from pipelines.records import ID, OBJECT, RUN
from pipelines.tables.dataset import ADDRESS, SCAN

DELETE_ROWS = 100_000  # in a commit
SHARE = 0.1  # of the source's rows; more are removed only with --delete-at-most

Owns = Callable[[str], bool]  # True if a file that was not listed would belong to the source


@dataclass(frozen=True)
class Missing:
    """The rows of this source that no record accounts for, and whether they may be removed."""

    owned: int = 0  # rows of this source that the table had at the start of the run
    by_file: dict[str, RowChecksum] = field(default_factory=dict)
    unread: tuple[str, ...] = ()  # files that could not be read in full, whose rows are kept
    known: int = 0  # missing rows of skipped files, which an earlier run found

    @property
    def rows(self) -> int:
        """How many."""
        return sum(each.rows for each in self.by_file.values())

    def refusal(self, at_most: int | None) -> str | None:
        """Why they must not be removed; None if they may be. `at_most` is --delete-at-most."""
        if not self.rows:
            return None
        if self.unread:
            return (
                f"not removing {self.rows:,} missing rows, since {len(self.unread):,} files could not be read in "
                f"full, such as {self.unread[0]}: what is missing there is not known. Mend them, or run without "
                "--delete-missing"
            )
        if self.rows > (SHARE * self.owned if at_most is None else at_most):
            return (
                f"not removing {self.rows:,} missing rows, {self.rows / self.owned:.1%} of the source's {self.owned:,} "
                f"in the table. If the source is complete, use --delete-at-most {self.rows}"
            )
        return None


def find_missing(committer: Committer, owns: Owns) -> Missing:
    """Count missing rows by file. Memory grows with the number of files."""
    fingerprint = committer.target.column.fingerprint
    owned = 0
    by_file: dict[str, RowChecksum] = {}
    for rows, among in missing_rows(committer, owns, [OBJECT, fingerprint, RUN]):
        owned += among
        for file, more in checksums_of(rows, fingerprint).items():
            by_file[file] = by_file.get(file, RowChecksum()) + more
    unread = tuple(file for file, stats in committer.manifest.stats.items() if stats.unreadable)
    return Missing(owned, by_file, unread)


def delete_missing(committer: Committer, owns: Owns) -> None:
    """Remove missing rows, in commits of bounded size."""
    waiting: list[pa.Table] = []
    for rows, _ in missing_rows(committer, owns, [ID, OBJECT]):
        waiting.append(rows)
        if sum(map(len, waiting)) >= DELETE_ROWS:
            delete(committer, pa.concat_tables(waiting))
            waiting = []
    if waiting:
        delete(committer, pa.concat_tables(waiting))


def missing_rows(committer: Committer, owns: Owns, columns: list[str]) -> Iterator[tuple[pa.Table, int]]:
    """The `columns` of missing rows in batches, each with the number of owned rows that it was found among."""
    accounted = committer.accounted | committer.retained
    judged: dict[str, tuple[bool, bool]] = {}
    scanner = committer.base.open().scanner(columns=columns, with_row_address=True, **SCAN)
    for batch in scanner.to_batches():
        rows = pa.Table.from_batches([batch])
        files = rows[OBJECT].combine_chunks().dictionary_encode()
        names = files.dictionary.to_pylist()
        for name in names:
            if name not in judged:
                judged[name] = judge(name, committer, owns)
        of_files = np.array([*(judged[name] for name in names), NOBODYS], bool)
        owned, may_be_missing = of_files[files.indices.fill_null(len(names)).to_numpy()].T
        addresses = rows[ADDRESS].to_numpy()
        gone = BitMap64(addresses[may_be_missing]) - accounted
        yield rows.filter(pa.array(np.isin(addresses, np.array(gone.to_array(), np.uint64)))), int(owned.sum())


NOBODYS = (False, False)  # what `judge` would say of rows of other writers, which have no file


def judge(file: str, committer: Committer, owns: Owns) -> tuple[bool, bool]:
    """Whether the rows of a file belong to this source, and whether those without a record are missing."""
    manifest = committer.manifest
    if file in manifest.reading.versions:
        stats = manifest.stats.get(file)
        return True, stats is not None and manifest.was_read(file) and not stats.unreadable
    return owns(file), owns(file)


def delete(committer: Committer, rows: pa.Table) -> None:
    """Commit that `rows` (id and file) of the base version leave the table, unless they changed since."""

    def write(bundle: Bundle) -> Written | Replacement:
        return removal(bundle, rows)

    if len(rows):
        committer.commit(write)
        committer.count_deleted(len(rows))


def removal(bundle: Bundle, rows: pa.Table) -> Written | Replacement:
    """What to commit: deletion vectors, or a `Replacement` by nothing where a fragment would be empty."""
    found = bundle.table.find(rows[ID].to_pylist(), [RUN, OBJECT]).to_pylist()
    files = dict(zip(rows[ID].to_pylist(), rows[OBJECT].to_pylist(), strict=True))
    stale = [row[ADDRESS] for row in found if row[RUN] < bundle.run and row[OBJECT] == files[row[ID]]]
    changed, emptied = delete_rows(bundle.table.open(), stale)
    if emptied:
        return Replacement(emptied, [], {})
    return Written(bundle.accounted, BitMap64().serialize(), changed=changed)
