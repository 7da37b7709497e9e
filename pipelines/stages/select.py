"""Select the records that need a vector: those whose id is new, or whose content is no longer the embedded one.

Resume and nightly increment are this one mechanism, since the table is the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.records import (
    FINGERPRINT,
    FLOW_FIELDS,
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


def select(
    records: pa.Table, rejects: dict[int, Reject], elsewhere: list[str | None], has_ids: bool, base: TableVersion
) -> Iterator[pa.Table]:
    """From a batch of `records` as read, those to embed or rejected, then a tally of the whole batch.

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

    keep, addresses, rows = [], [], []
    columns = (records[ID], records[REASON], records[ROW])
    for position, (key, reason, row) in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        present = known.get(key) if reason is None else None
        if present is not None and present.fingerprint == prints[position]:
            addresses.append(present.address)
            rows.append(row)
        else:
            keep.append(position)
    if keep:
        yield records.take(keep)
    tally = {"read": len(records), "unchanged_addresses": addresses, "unchanged_rows": rows}
    yield tally_row(records.schema, records[OBJECT][0].as_py() if len(records) else None, tally)


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
