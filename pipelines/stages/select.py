"""Select the records that need a vector: those whose id is new, or whose content is no longer the embedded one.

A record of which only other columns changed (a price), or that moved to another object, keeps its vector: it is marked,
and the sink copies the vector. Resume and nightly increment are this one mechanism, since the table is the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipelines.records import (
    FINGERPRINT,
    FLOW_FIELDS,
    HAS_VECTOR,
    ID,
    IMAGE,
    OBJECT,
    REASON,
    ROW,
    RUN,
    TALLY,
    TALLY_TYPE,
    TEXT,
    Reject,
    fingerprint,
    replace_column,
    row_digests,
    with_rejects,
)
from pipelines.sink.table import ADDRESS, TableVersion, since, source_of

# Not among the columns that pass through: what the fingerprint covers, and what says where a row came from.
COMPARED_ALREADY = {ID, IMAGE, FINGERPRINT, OBJECT}


@dataclass(frozen=True)
class Against:
    """What records are selected against.

    The same on each retry, so that a retried unit selects the same rows.
    """

    base: TableVersion  # at the start of the run
    present: np.ndarray  # `names_digest` of the source's objects
    skipped: np.ndarray  # those of them that are not read, being as they were
    claims: bool = False  # whether to hand on claims, and only these


def names_digest(names: Iterable[str]) -> np.ndarray:
    """Sorted uint64 hashes: what a worker needs to know of a listing, at 8 bytes an object."""
    return np.sort(np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64))


def select(
    records: pa.Table, rejects: dict[int, Reject], elsewhere: list[str | None], has_ids: bool, against: Against
) -> Iterator[pa.Table]:
    """From a batch of `records` as read, those to embed, rewrite or reject, then a tally of the whole batch.

    `rejects` are those that reading found; `elsewhere` stands for images that are not at hand.

    A *claim* is a record whose id the table has from another object of the source, which precedes the record's own and
    is read in this run, too. Whether it moved or is there twice is known only once that object was read: claims are
    counted at first, and handed on in a second reading.
    """
    records = with_content(records, rejects, elsewhere, has_ids)
    known = as_known(records, against.base)
    claims, doubled = owned_by_others(records[OBJECT].to_pylist(), known[OBJECT].to_pylist(), against)
    records = with_rejects(records, doubled)

    has_vector = pc.is_null(records[REASON]).to_numpy() & same_content(
        records, known, since(against.base.open().schema)
    )
    unchanged = has_vector & as_it_was(records, known)
    records = replace_column(records, HAS_VECTOR, pa.array(has_vector & ~unchanged))
    handed_on = claims if against.claims else ~(claims | unchanged)
    if handed_on.any():
        yield records if handed_on.all() else records.filter(pa.array(handed_on))  # it would copy all images
    if not against.claims:
        yield tally_row(records.schema, tally(records, known.filter(pa.array(unchanged)), unchanged, claims))


def with_content(records: pa.Table, rejects: dict[int, Reject], elsewhere: list[str | None], has_ids: bool) -> pa.Table:
    """`records` with their fingerprints and, where they have no id, its; what can't be embedded is rejected."""
    images = [image.as_buffer() for chunk in records[IMAGE].chunks for image in chunk]  # to_pylist would copy them
    contents = list(zip(records[TEXT].to_pylist(), images, elsewhere, strict=True))
    prints = [fingerprint(*content) for content in contents]
    if not has_ids:
        ids = [None if row in rejects else digest.hex() for row, digest in enumerate(prints)]
        records = replace_column(records, ID, pa.array(ids, pa.string()))
    records = with_flow_columns(records, prints)
    return with_rejects(records, nameless(records) | empty(contents) | rejects)


def as_known(records: pa.Table, base: TableVersion) -> pa.Table:
    """For each record its row of the table, as far as the two are compared; nulls where there is none."""
    names = [name for name in base.open().schema.names if name in records.column_names and name not in COMPARED_ALREADY]
    found = base.find(pc.drop_null(records[ID]).to_pylist(), [FINGERPRINT, RUN, OBJECT, *names])
    return found.take(pc.index_in(records[ID], found[ID]))


def owned_by_others(
    objects: list[str], owners: list[str | None], against: Against
) -> tuple[np.ndarray, dict[int, Reject]]:
    """Which records are claims, and which can't have their id, since another object has it."""
    claims = np.zeros(len(objects), bool)
    doubled: dict[int, Reject] = {}
    for row, (mine, owner) in enumerate(zip(objects, owners, strict=True)):
        if owner is None or owner == mine:
            continue
        if source_of(owner) != source_of(mine):
            doubled[row] = Reject("select", "duplicate_id", f"the id is that of a record of another source: {owner}")
        elif owner < mine:  # else it is this record's, since its object comes first
            if is_among(owner, against.skipped):
                doubled[row] = Reject("select", "duplicate_id", f"the id is that of a record of {owner}")
            else:
                claims[row] = is_among(owner, against.present)
    return claims, doubled


def is_among(name: str, digests: np.ndarray) -> bool:
    """Whether `names_digest` was made of `name`, too."""
    digest = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
    at = np.searchsorted(digests, digest)
    return bool(at < len(digests) and digests[at] == digest)


def nameless(records: pa.Table) -> dict[int, Reject]:
    """Records without an id."""
    rows = np.flatnonzero(pc.is_null(records[ID]).to_numpy())
    return {int(row): Reject("select", "missing_id", "the id is null") for row in rows}


def empty(contents: list[tuple[str | None, pa.Buffer | None, str | None]]) -> dict[int, Reject]:
    """Records in which there is nothing to embed."""
    return {
        row: Reject("select", "empty_record", "neither text nor image")
        for row, (text, image, named) in enumerate(contents)
        if not text and image is None and named is None
    }


def same_content(records: pa.Table, known: pa.Table, since: str) -> np.ndarray:
    """Where the table has a vector of this very content, and of the column's encoder."""
    same = pc.equal(records[FINGERPRINT], known[FINGERPRINT])
    return pc.fill_null(pc.and_(same, pc.greater_equal(known[RUN], since)), False).to_numpy().astype(bool)


def as_it_was(records: pa.Table, known: pa.Table) -> np.ndarray:
    """Where a record's object and the columns that pass through are those of its row."""
    same = pc.fill_null(pc.equal(records[OBJECT], known[OBJECT]), False).to_numpy().astype(bool)
    names = [name for name in known.column_names if name in records.column_names and name not in COMPARED_ALREADY]
    for name in names:
        same &= ~unequal(records[name].cast(known[name].type), known[name])
    return same


def unequal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Where two columns of one type differ; nulls are alike, and so are NaNs."""
    if pa.types.is_nested(one.type):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([repr(a) != repr(b) for a, b in pairs], bool)
    equal = pc.fill_null(pc.equal(one, other), False)
    equal = pc.or_(equal, pc.and_(pc.is_null(one, nan_is_null=True), pc.is_null(other, nan_is_null=True)))
    return pc.invert(equal).to_numpy().astype(bool)


def with_flow_columns(records: pa.Table, prints: list[bytes]) -> pa.Table:
    """`records` with the fields that every record carries from here on."""
    for field in FLOW_FIELDS:
        values = pa.array(prints, field.type) if field.name == FINGERPRINT else pa.nulls(len(records), field.type)
        records = records.append_column(field, values)
    return records


def tally(records: pa.Table, rows: pa.Table, unchanged: np.ndarray, claims: np.ndarray) -> dict:
    """What is counted of a batch; `rows` are those of the table that are `unchanged`."""
    objects = records[OBJECT].combine_chunks().dictionary_encode()
    at = objects.indices.to_numpy()
    digests = np.zeros(len(objects.dictionary), np.uint64)
    np.add.at(digests, at[unchanged], row_digests(rows[FINGERPRINT], rows[RUN]))
    counts = (np.bincount(at[which], minlength=len(digests)) for which in (slice(None), claims, unchanged))
    names = ("object", "read", "claims", "unchanged", "digest")
    columns = (objects.dictionary.to_pylist(), *(count.tolist() for count in counts), digests.tolist())
    return {
        "objects": [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)],
        "unchanged_addresses": rows[ADDRESS].to_pylist(),
        "unchanged_rows": records[ROW].to_numpy()[unchanged].tolist(),
        "unchanged_objects": at[unchanged].tolist(),
        "ended": [],
    }


def ending(names: list[str]) -> dict:
    """The tally that closes a unit: all that it holds of the objects `names` was read."""
    return {"ended": names} | {field.name: [] for field in TALLY_TYPE if field.name != "ended"}


def tally_row(schema: pa.Schema, tally: dict) -> pa.Table:
    """A row without a record that carries what was counted."""
    value = pa.array([tally], TALLY_TYPE)
    columns = [value if field.name == TALLY else pa.nulls(1, field.type) for field in schema]
    return pa.table(columns, schema=schema)
