"""Select the records that need a vector: their id is new, or their content differs from what the vector was made of.

A record that moved to another file, or of which only other columns changed (a price), keeps its vector: it is marked,
and the write step copies the vector. Resume and nightly increment are this one mechanism: the table is the checkpoint.
Of several vector columns, a record is encoded for those that have no vector of its content, and keeps the others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pyroaring import BitMap64

from pipelines.batch_stats import BatchStats, FileCounts
from pipelines.fingerprint import fingerprint, row_checksums
from pipelines.reasons import DUPLICATE_ID, EMPTY_RECORD, MISSING_ID, Reject
from pipelines.records import (
    FINGERPRINT,
    FLOW_FIELDS,
    HAS_VECTOR,
    ID,
    IMAGE,
    MISFITS,
    OBJECT,
    REASON,
    ROW,
    RUN,
    TEXT,
    Misfits,
    replace_column,
    slot_name,
    with_rejects,
)
from pipelines.stages.fetch import External
from pipelines.storage.uris import listing_order
from pipelines.tables.dataset import ADDRESS, TableVersion, is_null_name, source_of
from pipelines.tables.run_ids import is_since
from pipelines.tables.vector_column import DEFAULT, VectorColumn

# Not compared as columns that pass through: the fingerprint covers them, or they say where a row came from.
NOT_COMPARED = {ID, IMAGE, OBJECT}


@dataclass(frozen=True)
class Decided:
    """What the first pass of a run has decided, so that the second one encodes no record that is a duplicate."""

    table: TableVersion  # what it committed
    run: str
    accounted: bytes  # BitMap64: addresses of the base version that a record accounts for


@dataclass(frozen=True)
class Snapshot:
    """What records are selected against: the table and the listing at the start of the run.

    It is the same for each retry of a task, so a retried unit selects the same rows.
    """

    base: TableVersion
    column: VectorColumn  # of the first slot
    present: np.ndarray  # `file_hashes` of the source's files
    skipped: np.ndarray  # `file_hashes` of those that are skipped, unchanged
    second_pass: bool = False  # True if only deferred conflicts are handed on
    others: tuple[VectorColumn, ...] = ()  # of the other slots
    decided: Decided | None = None  # by the first pass, in the second

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The vector columns that the run fills, by slot."""
        return (self.column, *self.others)


def file_hashes(names: Iterable[str]) -> np.ndarray:
    """uint64 [N], sorted: what a worker needs to know of a listing, at 8 bytes a file."""
    return np.sort(np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64))


def select(
    records: pa.Table, rejects: dict[int, Reject], external: list[External | None], has_ids: bool, snapshot: Snapshot
) -> Iterator[pa.Table]:
    """From a batch of `records` as read: those to embed, rewrite or reject, then the statistics of the whole batch.

    `rejects` are those of reading; `external` stands for images that were not read (`fetch.identify`).

    A conflict is *deferred* if the table has the record's id from another file of the source that precedes this one
    and is read in this run, too. Whether the record moved or is a duplicate is known only after that file was read:
    in the first pass deferred records are only counted; a second pass over their units hands them on.
    """
    records = with_content(records, rejects, external, has_ids)
    stored = stored_rows(records, snapshot)
    deferred, duplicates = conflicts(records[OBJECT].to_pylist(), stored[OBJECT].to_pylist(), snapshot)
    if snapshot.decided is not None:
        duplicates |= decided_duplicates(records, stored, deferred, snapshot.decided)
    records = with_rejects(records, duplicates)

    sound = pc.is_null(records[REASON]).to_numpy()
    has_vector = [sound & same_content(records, stored, column) for column in snapshot.columns]
    unchanged = reduce(np.logical_and, has_vector) & same_columns(records, stored)
    for number, each in enumerate(has_vector):
        records = replace_column(records, slot_name(HAS_VECTOR, number), pa.array(each & ~unchanged))
    handed_on = deferred if snapshot.second_pass else ~(deferred | unchanged)
    if handed_on.any():
        # A filter would copy every image.
        yield records if handed_on.all() else records.filter(pa.array(handed_on))
    if not snapshot.second_pass:
        stats = batch_stats(records, stored.filter(pa.array(unchanged)), unchanged, deferred, snapshot.column)
        yield stats.row(records.schema)


def with_content(
    records: pa.Table, rejects: dict[int, Reject], external: list[External | None], has_ids: bool
) -> pa.Table:
    """`records` with their fingerprints and, if they have no ids, hashes of their content; empty ones are rejected.

    In a hash that is an id, the URI of an external image stands for it, so that a new version of the image is a change
    of the record and not another record.
    """
    images = [image.as_buffer() for chunk in records[IMAGE].chunks for image in chunk]  # to_pylist would copy them
    contents = list(zip(records[TEXT].to_pylist(), images, external, strict=True))
    fingerprints = [fingerprint(text, image, found.identity if found else None) for text, image, found in contents]
    if not has_ids:
        ids = [
            None if row in rejects else (fingerprint(text, None, found.uri) if found else fingerprints[row]).hex()
            for row, (text, _, found) in enumerate(contents)
        ]
        records = replace_column(records, ID, pa.array(ids, pa.string()))
    for field in FLOW_FIELDS:
        is_fingerprint = field.name == FINGERPRINT
        values = pa.array(fingerprints, field.type) if is_fingerprint else pa.nulls(len(records), field.type)
        records = records.append_column(field, values)
    return with_rejects(records, without_id(records) | empty(contents) | rejects)


def without_id(records: pa.Table) -> dict[int, Reject]:
    """Records whose id is null."""
    return {int(row): MISSING_ID.reject("the id is null") for row in np.flatnonzero(pc.is_null(records[ID]).to_numpy())}


def empty(contents: list[tuple[str | None, pa.Buffer | None, External | None]]) -> dict[int, Reject]:
    """Records in which there is nothing to embed."""
    return {
        row: EMPTY_RECORD.reject("neither text nor image")
        for row, (text, image, external) in enumerate(contents)
        if not text and image is None and external is None
    }


def stored_rows(records: pa.Table, snapshot: Snapshot) -> pa.Table:
    """For each record the table's row with its id, in the columns that are compared; nulls where there is none."""
    table = snapshot.base.open().schema.names
    names = [name for name in table if name in records.column_names and name not in NOT_COMPARED]
    fingerprints = [column.fingerprint for column in snapshot.columns]
    # A backfill, which fills the others, says by a null vector beside a fingerprint that a content can't be embedded.
    nulls_of = [column.name for column in snapshot.columns if column.name != DEFAULT]
    ids = pc.drop_null(records[ID]).to_pylist()
    found = snapshot.base.find_each(ids, [*fingerprints, RUN, OBJECT, *names], nulls_of)
    return found.take(pc.index_in(records[ID], found[ID]))


def conflicts(files: list[str], owners: list[str | None], snapshot: Snapshot) -> tuple[np.ndarray, dict[int, Reject]]:
    """Which records have a deferred conflict, and which are duplicates; `owners` are the files of the stored rows."""
    deferred = np.zeros(len(files), bool)
    duplicates: dict[int, Reject] = {}
    for row, (file, owner) in enumerate(zip(files, owners, strict=True)):
        if owner is None or owner == file:
            continue
        if source_of(owner) != source_of(file):
            duplicates[row] = DUPLICATE_ID.reject(f"the id is that of a record of another source: {owner}")
        elif listing_order(owner) < listing_order(file):  # otherwise the id is this record's, since its file is first
            if is_among(owner, snapshot.skipped):
                duplicates[row] = DUPLICATE_ID.reject(f"the id is that of a record of {owner}")
            else:
                deferred[row] = is_among(owner, snapshot.present)
    return deferred, duplicates


def decided_duplicates(
    records: pa.Table, stored: pa.Table, deferred: np.ndarray, decided: Decided
) -> dict[int, Reject]:
    """The `deferred` records whose id the first pass gave to another one; `stored` are their rows of the base version.

    It did if it wrote the row that the table has now, or found its record unchanged.
    """
    rows = np.flatnonzero(deferred).tolist()
    files, ids, addresses = (column.to_pylist() for column in (records[OBJECT], records[ID], stored[ADDRESS]))
    accounted = BitMap64.deserialize(decided.accounted)
    found = decided.table.find_each([ids[row] for row in rows], [RUN, OBJECT])
    now = {each[ID]: each for each in found.to_pylist() if each[OBJECT] is not None}
    owners = {
        row: now[ids[row]][OBJECT]
        for row in rows
        if ids[row] in now and (now[ids[row]][RUN] == decided.run or addresses[row] in accounted)
    }
    return {
        row: DUPLICATE_ID.reject(f"the id is that of a record of {owner}")
        for row, owner in owners.items()
        if listing_order(owner) < listing_order(files[row])
    }


def is_among(name: str, hashes: np.ndarray) -> bool:
    """True if `file_hashes` has the hash of `name`."""
    digest = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
    at = np.searchsorted(hashes, digest)
    return bool(at < len(hashes) and hashes[at] == digest)


def same_content(records: pa.Table, stored: pa.Table, column: VectorColumn) -> np.ndarray:
    """bool [N]: the table has a vector of this content, made by the column's encoder."""
    same = pc.equal(records[FINGERPRINT], stored[column.fingerprint])
    if is_null_name(column.name) in stored.column_names:
        same = pc.and_(same, pc.invert(stored[is_null_name(column.name)]))
    return pc.fill_null(pc.and_(same, is_since(stored[RUN], column.since)), False).to_numpy().astype(bool)


def same_columns(records: pa.Table, stored: pa.Table) -> np.ndarray:
    """bool [N]: a record's file and the columns that pass through are those of its stored row."""
    same = pc.fill_null(pc.equal(records[OBJECT], stored[OBJECT]), False).to_numpy().astype(bool)
    for name in stored.column_names:
        if name in records.column_names and name not in NOT_COMPARED:
            # Records have the type of the table or, before it is widened, as in a forecast, a wider one.
            same &= ~unequal(records[name], stored[name].cast(records[name].type))
    return same


def unequal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """bool [N]: where two columns of one type differ. Nulls equal each other, and so do NaNs."""
    if pa.types.is_nested(one.type):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([repr(a) != repr(b) for a, b in pairs], bool)
    equal = pc.fill_null(pc.equal(one, other), False)
    equal = pc.or_(equal, pc.and_(pc.is_null(one, nan_is_null=True), pc.is_null(other, nan_is_null=True)))
    return pc.invert(equal).to_numpy().astype(bool)


def batch_stats(
    records: pa.Table, rows: pa.Table, unchanged: np.ndarray, deferred: np.ndarray, column: VectorColumn
) -> BatchStats:
    """What is counted of a batch; `rows` are the stored rows of the `unchanged` records."""
    files = records[OBJECT].combine_chunks().dictionary_encode()
    at = files.indices.to_numpy()
    checksums = np.zeros(len(files.dictionary), np.uint64)
    np.add.at(checksums, at[unchanged], row_checksums(rows[column.fingerprint], rows[RUN]))
    counts = [np.bincount(at[which], minlength=len(checksums)) for which in (slice(None), deferred, unchanged)]
    columns = (files.dictionary.to_pylist(), *(count.tolist() for count in counts), checksums.tolist())
    return BatchStats(
        files=[FileCounts(*values) for values in zip(*columns, strict=True)],
        unchanged_addresses=rows[ADDRESS].to_pylist(),
        unchanged_rows=records[ROW].to_numpy()[unchanged].tolist(),
        unchanged_files=at[unchanged].tolist(),
        misfits=misfits(records[MISFITS]),
    )


def misfits(found: pa.ChunkedArray) -> list[Misfits]:
    """How many values of each column don't fit it, with the first as an example."""
    columns: dict[str, Misfits] = {}
    for each in pc.list_flatten(found).to_pylist() if found.null_count < len(found) else ():
        before = columns.get(each["column"], Misfits(each["column"], 0, each["message"]))
        columns[each["column"]] = before._replace(number=before.number + 1)
    return [*columns.values()]
