"""Select the records that need a vector: those whose id is new, or whose content is no longer the embedded one.

A record of which only other columns changed (a price) keeps its vector: it is marked, and the sink copies the vector.

Resume and nightly increment are this one mechanism, since the table is the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import (
    FINGERPRINT,
    FLOW_FIELDS,
    HAS_VECTOR,
    ID,
    IMAGE,
    OBJECT,
    REASON,
    ROW,
    TALLY,
    TALLY_TYPE,
    TEXT,
    Reject,
    fingerprint,
    replace_column,
    with_rejects,
)
from pipelines.sink.table import TableVersion

# What the fingerprint covers, what says where a row came from, and what changes with every run.
COMPARED_ALREADY = {ID, IMAGE, FINGERPRINT, OBJECT}


def select(
    records: pa.Table, rejects: dict[int, Reject], elsewhere: list[str | None], has_ids: bool, base: TableVersion
) -> Iterator[pa.Table]:
    """From a batch of `records` as read, those to embed, rewrite or reject, then a tally of the whole batch.

    `rejects` are those that reading found; `elsewhere` stands for images that are not at hand. `base` is the version
    that the run started from: the same on each retry, so that a retried unit selects the same rows.
    """
    contents = list(zip(records[TEXT].to_pylist(), records[IMAGE].to_pylist(), elsewhere, strict=True))
    prints = [fingerprint(*content) for content in contents]
    if not has_ids:
        ids = [None if row in rejects else digest.hex() for row, digest in enumerate(prints)]
        records = replace_column(records, ID, pa.array(ids, pa.string()))
    empty = {
        row: Reject("select", "empty_record", "neither text nor image")
        for row, (text, image, named) in enumerate(contents)
        if not text and image is None and named is None
    }
    nameless = {
        row: Reject("select", "missing_id", "the id is null")
        for row, key in enumerate(records[ID].to_pylist())
        if key is None
    }
    records = with_rejects(with_flow_columns(records, prints), nameless | empty | rejects)
    known = base.lookup([key for key in records[ID].to_pylist() if key is not None])

    ids, reasons = records[ID].to_pylist(), records[REASON].to_pylist()
    same = [
        row
        for row, (key, reason) in enumerate(zip(ids, reasons, strict=True))
        if reason is None and key in known and known[key].fingerprint == prints[row]
    ]
    differing = set(other_columns_differ(records.take(pa.array(same, pa.int64())), base))
    rewritten = {row for at, row in enumerate(same) if at in differing}
    unchanged = [row for row in same if row not in rewritten]
    records = replace_column(records, HAS_VECTOR, pa.array([row in rewritten for row in range(len(records))]))
    dropped = set(unchanged)
    if keep := [row for row in range(len(records)) if row not in dropped]:
        yield records.take(keep)
    numbers = records[ROW].to_pylist()
    tally = {
        "read": len(records),
        "unchanged_addresses": [known[ids[row]].address for row in unchanged],
        "unchanged_rows": [numbers[row] for row in unchanged],
    }
    yield tally_row(records.schema, records[OBJECT][0].as_py() if len(records) else None, tally)


def other_columns_differ(records: pa.Table, base: TableVersion) -> list[int]:
    """Of `records`, all in the table, those of which a column that passes through has another value there."""
    names = [name for name in base.open().schema.names if name in records.column_names and name not in COMPARED_ALREADY]
    stored = base.rows(records[ID].to_pylist(), names)
    differs = np.zeros(len(records), bool)
    for name in names:
        differs |= unequal(records[name].cast(stored[name].type), stored[name])
    return np.flatnonzero(differs).tolist()


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


def tally_row(schema: pa.Schema, source_object: str | None, tally: dict) -> pa.Table:
    """A row without a record that carries what was counted."""
    values = {OBJECT: pa.array([source_object], pa.string()), TALLY: pa.array([tally], TALLY_TYPE)}
    return pa.table([values.get(field.name, pa.nulls(1, field.type)) for field in schema], schema=schema)
