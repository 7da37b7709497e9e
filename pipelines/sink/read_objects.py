"""`NAME_objects`: the source objects that were read in full, so that a later run needn't read them again.

A row says as which version and under which options an object was read, and how many rows of the table, with which
digest, that made. It is believed only while the object is that version and the table has exactly those rows. So
whatever becomes of the table, a row that is lost, stale or untrue costs reading, never records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa

from pipelines.records import FINGERPRINT, OBJECT, RUN, row_digests
from pipelines.sink.table import SCAN, TableVersion, ensure_dataset, open_dataset

OBJECTS_SCHEMA = pa.schema(
    [
        ("object", pa.string()),
        ("version", pa.string()),  # etag, or size and modification time
        ("reading", pa.string()),  # digest of all that made rows of it: options, encoder, the table's columns
        ("read", pa.int64()),
        ("rejected", pa.int64()),
        ("rows", pa.int64()),  # of the table
        ("digest", pa.uint64()),  # sum of their `row_digests`
        ("missing", pa.int64()),  # those of them without a record, which stayed
        ("run", pa.string()),
    ]
)


@dataclass(frozen=True)
class Held:
    """What the table holds of an object."""

    rows: int = 0
    digest: int = 0

    def __add__(self, other: Held) -> Held:
        """Of both together."""
        return Held(self.rows + other.rows, (self.digest + other.digest) % (1 << 64))


@dataclass
class Share:
    """What is known of an object's records: of a bundle's or, summed up, of those of a run."""

    read: int = 0
    settled: int = 0
    rejected: int = 0
    claims: int = 0
    rows: int = 0
    digest: int = 0
    ended: int = 0  # units of the object that were read to the end
    lasting: bool = True  # whether reading it again would come to the same
    unreadable: bool = False  # whether a part of it could not be read

    def add(self, other: Share) -> None:
        """Sum up."""
        self.read += other.read
        self.settled += other.settled
        self.rejected += other.rejected
        self.claims += other.claims
        self.rows += other.rows
        self.digest = (self.digest + other.digest) % (1 << 64)
        self.ended += other.ended
        self.lasting &= other.lasting
        self.unreadable |= other.unreadable


class ReadObjects:
    """What a run has read of each object, and the table that remembers it."""

    def __init__(self, uri: str, reading: str, run: str, versions: Mapping[str, str], units: Mapping[str, int]) -> None:
        """`versions` are the source's objects, `units` says in how many units those that this run reads are read.

        `reading` stands for all else that makes rows of them.
        """
        self.uri = ensure_dataset(uri, OBJECTS_SCHEMA).uri
        self.reading = reading
        self.run = run
        self.versions = versions
        self.units = units
        self.shares: dict[str, Share] = {}
        self.changed: set[str] = set()

    def count(self, shares: dict[str, Share]) -> None:
        """Add what a committed bundle had of some objects."""
        for name, share in shares.items():
            self.shares.setdefault(name, Share()).add(share)
        self.changed |= shares.keys()

    def was_read(self, name: str) -> bool:
        """Whether all units of an object were read to their end, and what came of all its records is known."""
        share = self.shares.get(name)
        ended = share is not None and share.ended == self.units.get(name)
        return ended and share is not None and share.read == share.settled

    def record(self) -> None:
        """Remember the objects that were read to the end by what was counted since the last time."""
        self.append([self.row(name, Held()) for name in sorted(self.changed) if self.is_done(name)])
        self.changed.clear()

    def record_missing(self, missing: Mapping[str, Held]) -> None:
        """Remember that the table has rows of some objects that no record stands for."""
        self.append([self.row(name, rows) for name, rows in missing.items() if self.is_done(name)])

    def is_done(self, name: str) -> bool:
        """Whether an object needn't be read again unless it changes."""
        return self.was_read(name) and self.shares[name].lasting

    def append(self, rows: list[dict]) -> None:
        """Of several rows that speak of an object the last one counts."""
        if rows:
            lance.write_dataset(pa.Table.from_pylist(rows, schema=OBJECTS_SCHEMA), self.uri, mode="append")

    def row(self, name: str, missing: Held) -> dict:
        """What is remembered of an object."""
        share = self.shares[name]
        held = Held(share.rows, share.digest) + missing
        figures = {"read": share.read, "rejected": share.rejected, "missing": missing.rows} | vars(held)
        here = {"object": name, "version": self.versions[name], "reading": self.reading, "run": self.run}
        return here | figures


def remembered(uri: str) -> dict[str, dict]:
    """What `NAME_objects` says of each object: the latest run that read it. Memory is that of the objects."""
    dataset = open_dataset(uri)
    latest: dict[str, dict] = {}
    for row in dataset.to_table().to_pylist() if dataset is not None else ():
        if row["object"] not in latest or row["run"] >= latest[row["object"]]["run"]:
            latest[row["object"]] = row
    return latest


def forget(uri: str, keep: list[dict]) -> None:
    """Replace what `NAME_objects` holds, if it holds more: one row an object, none of objects that are gone."""
    if lance.dataset(uri).count_rows() > len(keep):
        lance.write_dataset(pa.Table.from_pylist(keep, schema=OBJECTS_SCHEMA), uri, mode="overwrite")


def held(base: TableVersion) -> dict[str, Held]:
    """What a version of the table holds of each object: one scan of 17 bytes a row. Memory is that of the objects."""
    found: dict[str, Held] = {}
    for batch in base.open().scanner(columns=[OBJECT, FINGERPRINT, RUN], **SCAN).to_batches():
        for name, more in held_in(pa.Table.from_batches([batch])).items():
            found[name] = found.get(name, Held()) + more
    return found


def held_in(rows: pa.Table) -> dict[str, Held]:
    """The same of some rows (object, fingerprint and run)."""
    objects = rows[OBJECT].combine_chunks().dictionary_encode()
    at = objects.indices.to_numpy()
    digests = np.zeros(len(objects.dictionary), np.uint64)
    np.add.at(digests, at, row_digests(rows[FINGERPRINT], rows[RUN]))
    columns = (objects.dictionary.to_pylist(), np.bincount(at, minlength=len(digests)).tolist(), digests.tolist())
    return {name: Held(number, digest) for name, number, digest in zip(*columns, strict=True)}


def as_they_were(
    remembered: dict[str, dict], versions: dict[str, str], reading: str, held: dict[str, Held]
) -> dict[str, dict]:
    """Of the objects listed (name to version), what is remembered of those that needn't be read again."""
    found = {}
    for name, version in versions.items():
        row = remembered.get(name)
        if row is None or (row["version"], row["reading"]) != (version, reading):
            continue
        if Held(row["rows"], row["digest"]) == held.get(name, Held()):
            found[name] = row
    return found
