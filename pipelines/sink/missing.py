"""Rows of the table whose record is no longer in the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from pipelines.records import FINGERPRINT, ID, OBJECT, RUN
from pipelines.sink.commit import Committer
from pipelines.sink.fragments import Bundle, Refill, Written, delete_rows
from pipelines.sink.read_objects import Held, held_in
from pipelines.sink.table import ADDRESS, SCAN

DELETE_ROWS = 100_000  # in a commit
SHARE = 0.1  # of the source's rows, beyond which --delete-missing wants to be told how many


@dataclass(frozen=True)
class Missing:
    """What of the source's rows in the table no record stands for any more."""

    owned: int  # rows of this source that the table held when the run began
    by_object: dict[str, Held]
    unread: tuple[str, ...]  # objects that could not be read in full, which keep their rows

    @property
    def rows(self) -> int:
        """How many."""
        return sum(each.rows for each in self.by_object.values())

    def refusal(self, at_most: int | None) -> str | None:
        """Why they are not to be removed, if that is so."""
        if self.unread:
            return (
                f"not removing {self.rows:,} missing rows, since {len(self.unread):,} objects could not be read in "
                f"full, such as {self.unread[0]}: what is missing there is not known. Mend them, or leave out "
                "--delete-missing"
            )
        if self.rows > (SHARE * self.owned if at_most is None else at_most):
            return (
                f"not removing {self.rows:,} missing rows, {self.rows / self.owned:.1%} of the source's {self.owned:,} "
                f"in the table. If the source is whole, say --delete-at-most {self.rows}"
            )
        return None


def missing_rows(
    committer: Committer, owns: Callable[[str], bool], columns: list[str]
) -> Iterator[tuple[pa.Table, int]]:
    """The `columns` of missing rows in batches, each with the number of owned rows that it was found among.

    `owns` says of an object that the run did not list whether it would be this source's.
    """
    accounted = committer.matched | committer.named
    judged: dict[str, tuple[bool, bool]] = {}  # by object: whether its rows are owned, and can be missing
    scanner = committer.base.open().scanner(columns=columns, with_row_address=True, **SCAN)
    for batch in scanner.to_batches():
        rows = pa.Table.from_batches([batch])
        objects = rows[OBJECT].combine_chunks().dictionary_encode()
        for name in objects.dictionary.to_pylist():
            if name not in judged:
                judged[name] = judge(name, committer, owns)
        standing = np.array([judged[name] for name in objects.dictionary.to_pylist()], bool).reshape(-1, 2)
        owned, may_be_missing = standing[objects.indices.to_numpy()].T
        addresses = rows[ADDRESS].to_numpy()
        gone = BitMap64(addresses[may_be_missing]) - accounted
        yield rows.filter(pa.array(np.isin(addresses, np.array(gone.to_array(), np.uint64)))), int(owned.sum())


def judge(name: str, committer: Committer, owns: Callable[[str], bool]) -> tuple[bool, bool]:
    """Whether the rows of an object are owned by this source, and whether one without a record is missing."""
    if name in committer.objects.versions:
        share = committer.objects.shares.get(name)
        return True, share is not None and committer.objects.was_read(name) and not share.unreadable
    return owns(name), owns(name)


def find_missing(committer: Committer, owns: Callable[[str], bool]) -> Missing:
    """Count them. Memory is that of the objects."""
    owned = 0
    by_object: dict[str, Held] = {}
    for rows, among in missing_rows(committer, owns, [OBJECT, FINGERPRINT, RUN]):
        owned += among
        for name, more in held_in(rows).items():
            by_object[name] = by_object.get(name, Held()) + more
    unread = tuple(name for name, share in committer.objects.shares.items() if share.unreadable)
    return Missing(owned, by_object, unread)


def delete_missing(committer: Committer, owns: Callable[[str], bool]) -> None:
    """Remove them, so many at a time."""
    waiting: list[pa.Table] = []
    for rows, _ in missing_rows(committer, owns, [ID, OBJECT]):
        waiting.append(rows)
        if sum(map(len, waiting)) >= DELETE_ROWS:
            remove(committer, pa.concat_tables(waiting))
            waiting = []
    if waiting:
        remove(committer, pa.concat_tables(waiting))


def remove(committer: Committer, rows: pa.Table) -> None:
    """Commit that `rows` (id, object) of the base version leave the table, as far as they are still there."""

    def write(bundle: Bundle) -> Written | Refill:
        return removal(bundle, rows)

    if len(rows):
        committer.commit(write)
        committer.counts.deleted += len(rows)


def removal(bundle: Bundle, rows: pa.Table) -> Written | Refill:
    """What to commit: deletion vectors, or, where they leave nothing of a fragment, that it goes."""
    found = bundle.table.find(rows[ID].to_pylist(), [RUN, OBJECT]).to_pylist()
    objects = dict(zip(rows[ID].to_pylist(), rows[OBJECT].to_pylist(), strict=True))
    stale = [row[ADDRESS] for row in found if row[RUN] < bundle.run and row[OBJECT] == objects[row[ID]]]
    shrunk, emptied = delete_rows(bundle.table.open(), stale)
    if emptied:
        return Refill(emptied, [], {})
    return Written.deleting(bundle, shrunk)
