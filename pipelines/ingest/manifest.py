"""The manifest `NAME_objects`: the source files that were read in full, so that a later run can skip them.

A row says at which version and under which options a file was read, how many rows of the table came of it, and their
checksum. It is trusted only while the file has that version and the table has exactly those rows. So a missing, stale
or wrong entry causes a re-read, never data loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fingerprint import row_checksums
from pipelines.records import OBJECT, RUN
from pipelines.tables.dataset import SCAN, TableVersion, open_dataset

MANIFEST_SCHEMA = pa.schema(
    [
        ("object", pa.string()),  # the source file
        ("version", pa.string()),  # etag, or size and modification time
        ("reading", pa.string()),  # digest of all that makes rows of it: options, encoder, the table's columns
        ("read", pa.int64()),
        ("rejected", pa.int64()),
        ("rows", pa.int64()),  # of the table
        ("digest", pa.uint64()),  # sum of their `row_checksums`
        ("missing", pa.int64()),  # those of them without a record, which were kept
        ("run", pa.string()),
    ]
)
MODULUS = 1 << 64


@dataclass(frozen=True)
class RowChecksum:
    """What a table holds of a file: the number of rows, and the sum of their checksums."""

    rows: int = 0
    checksum: int = 0

    def __add__(self, other: RowChecksum) -> RowChecksum:
        """Of both together."""
        return RowChecksum(self.rows + other.rows, (self.checksum + other.checksum) % MODULUS)


@dataclass(frozen=True)
class FileStats:
    """What is known of a file's records: of one bundle or, added up, of a run."""

    read: int = 0
    resolved: int = 0  # their outcome is known
    rejected: int = 0
    deferred: int = 0  # their conflict is decided in the second pass
    held: RowChecksum = RowChecksum()  # rows of the table that came of them
    ended: int = 0  # units of the file that were read to their end
    retryable: bool = False  # True if a record was rejected that a later run may accept
    unreadable: bool = False  # True if a part of the file could not be read

    def __add__(self, other: FileStats) -> FileStats:
        """Of both together."""
        return FileStats(
            self.read + other.read,
            self.resolved + other.resolved,
            self.rejected + other.rejected,
            self.deferred + other.deferred,
            self.held + other.held,
            self.ended + other.ended,
            self.retryable or other.retryable,
            self.unreadable or other.unreadable,
        )


def add_up(*parts: Mapping[str, FileStats]) -> dict[str, FileStats]:
    """Statistics by file, added up."""
    total: dict[str, FileStats] = {}
    for part in parts:
        for file, stats in part.items():
            total[file] = total[file] + stats if file in total else stats
    return total


@dataclass(frozen=True)
class Entry:
    """A row of the manifest."""

    file: str
    version: str
    reading: str
    run: str
    read: int
    rejected: int
    held: RowChecksum
    missing: int

    @classmethod
    def of_row(cls, row: dict) -> Entry:
        """From a row of `NAME_objects`."""
        same = {name: row[name] for name in ("version", "reading", "run", "read", "rejected", "missing")}
        return cls(file=row["object"], held=RowChecksum(row["rows"], row["digest"]), **same)

    def row(self) -> dict:
        """A row of `NAME_objects`."""
        held = {"rows": self.held.rows, "digest": self.held.checksum}
        return (
            {name: value for name, value in asdict(self).items() if name not in ("file", "held")}
            | held
            | {"object": self.file}
        )


@dataclass(frozen=True)
class Reading:
    """The files of a run, and all that makes rows of them; `digest` stands for everything beside their content."""

    digest: str
    run: str
    versions: Mapping[str, str]  # by file
    units: Mapping[str, int]  # in how many units this run reads each file; empty if it reads only a part of the source


class Manifest:
    """What a run has read of each file, and the table in which the files that were read in full are recorded."""

    def __init__(self, uri: str, reading: Reading) -> None:
        """`uri` is that of an existing `NAME_objects`."""
        self.uri = uri
        self.reading = reading
        self.stats: dict[str, FileStats] = {}
        self.changed: set[str] = set()

    def count(self, stats: Mapping[str, FileStats]) -> None:
        """Add what a committed bundle has of some files."""
        self.stats = add_up(self.stats, stats)
        self.changed |= stats.keys()

    def was_read(self, file: str) -> bool:
        """True if all units of a file were read to their end and the outcome of all its records is known."""
        stats = self.stats.get(file)
        return stats is not None and stats.ended == self.reading.units.get(file) and stats.read == stats.resolved

    def record(self) -> None:
        """Append the files that the bundles since the last call completed."""
        self.append(self.entry(file, RowChecksum()) for file in sorted(self.changed) if self.can_be_skipped(file))
        self.changed.clear()

    def record_missing(self, missing: Mapping[str, RowChecksum]) -> None:
        """Append that the table has rows of some files that no record accounts for."""
        self.append(self.entry(file, rows) for file, rows in missing.items() if self.can_be_skipped(file))

    def can_be_skipped(self, file: str) -> bool:
        """True if a file need not be read again unless it changes."""
        return self.was_read(file) and not self.stats[file].retryable

    def entry(self, file: str, missing: RowChecksum) -> Entry:
        """What is recorded of a file."""
        stats, reading = self.stats[file], self.reading
        return Entry(
            file=file,
            version=reading.versions[file],
            reading=reading.digest,
            run=reading.run,
            read=stats.read,
            rejected=stats.rejected,
            held=stats.held + missing,
            missing=missing.rows,
        )

    def append(self, entries: Iterable[Entry]) -> None:
        """Append entries; for a file, the last one counts."""
        if rows := [entry.row() for entry in entries]:
            lance.write_dataset(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), self.uri, mode="append")


def read_manifest(uri: str) -> dict[str, Entry]:
    """The entry of each file: that of the latest run that read it. Memory grows with the number of files."""
    dataset = open_dataset(uri)
    latest: dict[str, Entry] = {}
    for row in dataset.to_table().to_pylist() if dataset is not None else ():
        if row["object"] not in latest or row["run"] >= latest[row["object"]].run:
            latest[row["object"]] = Entry.of_row(row)
    return latest


def prune(uri: str, keep: list[Entry]) -> None:
    """Rewrite the manifest with the entries `keep`, one a file, if it has others."""
    if lance.dataset(uri).count_rows() > len(keep):
        rows = pa.Table.from_pylist([entry.row() for entry in keep], schema=MANIFEST_SCHEMA)
        lance.write_dataset(rows, uri, mode="overwrite")


def row_checksum_by_file(base: TableVersion, fingerprint: str) -> dict[str, RowChecksum]:
    """What a version of a table holds of each file, by one scan of 17 bytes a row.

    `fingerprint` is the name of the column of fingerprints. Memory grows with the number of files.
    """
    found: dict[str, RowChecksum] = {}
    for batch in base.open().scanner(columns=[OBJECT, fingerprint, RUN], **SCAN).to_batches():
        for file, more in checksums_of(pa.Table.from_batches([batch]), fingerprint).items():
            found[file] = found.get(file, RowChecksum()) + more
    return found


def checksums_of(rows: pa.Table, fingerprint: str) -> dict[str, RowChecksum]:
    """The same of some rows: `_object`, `_run` and the column `fingerprint`. Rows without `_object` are of no file."""
    rows = rows.filter(pc.is_valid(rows[OBJECT]))
    files = rows[OBJECT].combine_chunks().dictionary_encode()
    at = files.indices.to_numpy()
    checksums = np.zeros(len(files.dictionary), np.uint64)
    np.add.at(checksums, at, row_checksums(rows[fingerprint], rows[RUN]))
    columns = (files.dictionary.to_pylist(), np.bincount(at, minlength=len(checksums)).tolist(), checksums.tolist())
    return {file: RowChecksum(number, checksum) for file, number, checksum in zip(*columns, strict=True)}


def unchanged_files(
    manifest: Mapping[str, Entry], versions: Mapping[str, str], reading: str, held: Mapping[str, RowChecksum]
) -> dict[str, Entry]:
    """Of the listed files (name to version) those that need not be read again, with their entries."""
    found = {}
    for file, version in versions.items():
        entry = manifest.get(file)
        if entry is None or (entry.version, entry.reading) != (version, reading):
            continue
        if entry.held == held.get(file, RowChecksum()):
            found[file] = entry
    return found
