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


def select(records: pa.Table, rejects: dict[int, Reject], has_ids: bool, base: TableVersion) -> Iterator[pa.Table]:
    """From a batch of `records` as read, those to embed or rejected, then a tally of the whole batch.

    `rejects` are those that reading found. `base` is the version that the run started from: the same on each
    retry, so that a retried unit selects the same rows.
    """
    records, bad_text = without_invalid_text(records)
    texts, images = records[TEXT].to_pylist(), records[IMAGE].to_pylist()
    prints = [fingerprint(text, image) for text, image in zip(texts, images, strict=True)]
    if not has_ids:
        ids = [None if row in rejects else digest.hex() for row, digest in enumerate(prints)]
        records = replace_column(records, ID, pa.array(ids, pa.string()))
    empty = {
        row: Reject("select", "empty_record", "neither text nor image")
        for row, (text, image) in enumerate(zip(texts, images, strict=True))
        if not text and image is None
    }
    nameless = {
        row: Reject("select", "missing_id", "the id is null")
        for row, key in enumerate(records[ID].to_pylist())
        if key is None
    }
    records = with_rejects(with_flow_columns(records, prints), nameless | empty | bad_text | rejects)
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


def without_invalid_text(records: pa.Table) -> tuple[pa.Table, dict[int, Reject]]:
    """Strings that are not UTF-8, nested ones too, replaced by null, their rows rejected.

    Neither Parquet nor Lance checks what it writes: whoever reads such a table would fail on it.
    """
    rejects: dict[int, Reject] = {}
    for name in records.schema.names:
        column = records[name]
        if is_valid(column):
            continue
        rows = range(len(column))
        bad = {row for row in rows if not is_valid(column.take([row]))}
        rejects |= dict.fromkeys(bad, Reject("read", "text_not_utf8", f"column {name}"))
        kept = pa.array([None if row in bad else row for row in rows], pa.int64())
        records = replace_column(records, name, column.take(kept))
    return records, rejects


def is_valid(column: pa.ChunkedArray) -> bool:
    """Whether all that `column` holds is what its type says."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def tally_row(schema: pa.Schema, source_object: str | None, tally: dict) -> pa.Table:
    """A row without a record that carries what was counted."""
    values = {OBJECT: pa.array([source_object], pa.string()), TALLY: pa.array([tally], TALLY_TYPE)}
    return pa.table([values.get(field.name, pa.nulls(1, field.type)) for field in schema], schema=schema)
