"""Resolve ids: of several records with one id, the one whose file comes first in the listing enters the table.

Pure functions on plain values. What the table holds is looked up beforehand (`Known`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pyroaring import BitMap64

from pipelines.reasons import DUPLICATE_ID, REASONS, Reject
from pipelines.storage.uris import listing_order


class Incoming(NamedTuple):
    """A record that arrived: its row in the bundle, id, source file, and why an earlier stage rejected it, if so."""

    row: int
    id: str
    file: str
    reason: str | None


class StoredRow(NamedTuple):
    """A row of the table."""

    address: int
    file: str | None  # None if another client wrote the row
    run: str | None = None


@dataclass(frozen=True)
class Known:
    """What the table says of the ids that arrived."""

    latest: Mapping[str, StoredRow]  # in the version that the bundle is going to be committed on
    base: Mapping[str, StoredRow]  # in the version at the start of the run
    already_replaced: Mapping[str, str | None]  # see `fragments.Bundle`
    run: str

    def written_by_this_run(self, key: str) -> bool:
        """True if an earlier bundle of this run wrote the row."""
        return key in self.latest and self.latest[key].run == self.run and key not in self.already_replaced


@dataclass
class Resolution:
    """What is decided of a bundle's records."""

    accounted: BitMap64  # addresses of the base version that a record of this run accounts for, this bundle's included
    rejects: dict[int, Reject] = field(default_factory=dict)  # by row of the bundle
    replaced: dict[str, int] = field(default_factory=dict)  # id to address: rows that leave the table for a record
    removed: dict[str, int] = field(default_factory=dict)  # id to address: rows that leave since theirs was rejected
    removed_rows: int = 0  # such rows of the base version, also if a replacement has removed them already
    retained: BitMap64 = field(default_factory=BitMap64)  # addresses of the base version that stay, though rejected
    superseded: dict[str, str] = field(default_factory=dict)  # id to file: records of this run that lose their id
    superseded_rejects: list[dict] = field(default_factory=list)
    superseded_written: int = 0
    superseded_unchanged: int = 0
    owners: dict[str, str] = field(default_factory=dict)  # id to file, of the records of this bundle that enter

    def supersede(self, key: str, holder: str, by: str, was_unchanged: bool) -> None:
        """A record that an earlier bundle counted loses its id to one whose file comes first in the listing."""
        self.superseded[key] = holder
        self.superseded_rejects.append({"id": key, "object": holder} | vars(duplicate(key, by)))
        self.superseded_unchanged += was_unchanged
        self.superseded_written += not was_unchanged


def resolve(records: Iterable[Incoming], known: Known, accounted: BitMap64, keep_stale: bool) -> Resolution:
    """Decide for each record whether it enters the table, and which row of the table it replaces or removes.

    `accounted` are the addresses of the base version that earlier bundles account for; `keep_stale` keeps the rows of
    records that were rejected.
    """
    resolution = Resolution(BitMap64(accounted))
    ordered = sorted(records, key=lambda record: listing_order(record.file))
    for record in ordered:
        if record.reason is None:
            enter(record, known, resolution)
    for record in ordered:
        if record.reason is not None:
            leave(record, known, resolution, keep_stale)
    return resolution


def enter(record: Incoming, known: Known, resolution: Resolution) -> None:
    """A sound record takes its id, unless a record whose file comes first in the listing has it."""
    key = record.id
    holder, was_unchanged = holder_of(key, known, resolution)
    if holder is not None and listing_order(holder) <= listing_order(record.file):
        resolution.rejects[record.row] = duplicate(key, holder)
        return
    if holder is not None:
        resolution.supersede(key, holder, record.file, was_unchanged)
    resolution.owners[key] = record.file
    if key in known.base:
        resolution.accounted.add(known.base[key].address)
    if key in known.latest and key not in known.already_replaced:
        resolution.replaced[key] = known.latest[key].address


def holder_of(key: str, known: Known, resolution: Resolution) -> tuple[str | None, bool]:
    """The file of the record of this run that has the id so far, and whether the table holds that record unchanged."""
    if key in resolution.owners:
        return resolution.owners[key], False
    if known.written_by_this_run(key):
        return known.latest[key].file, False
    if key in known.base and known.base[key].address in resolution.accounted:
        return known.base[key].file, True
    return known.already_replaced.get(key), False


def leave(record: Incoming, known: Known, resolution: Resolution, keep_stale: bool) -> None:
    """The row that the table has of a rejected record leaves it, unless another record accounts for that row."""
    stored = known.base.get(record.id)
    if stored is None or stored.file != record.file or record.id in resolution.owners:
        return
    if stored.address in resolution.accounted:
        return
    assert record.reason is not None, "only rejected records leave"
    if keep_stale or not REASONS[record.reason].removes_row:
        resolution.retained.add(stored.address)
        return
    resolution.accounted.add(stored.address)
    resolution.removed_rows += 1
    if record.id in known.latest:
        resolution.removed[record.id] = known.latest[record.id].address


def duplicate(key: str, owner: str) -> Reject:
    """A record whose id is that of another one, of the file `owner`."""
    return DUPLICATE_ID.reject(f"the id {key!r} is that of another record, in {owner}", stage="write")
