"""A part of a source, for a first try: the first so many records, or a share of them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import xxhash

from pipelines.records import ID, OBJECT, ROW, Reject
from pipelines.sources import Source

Batches = Iterator[tuple[pa.Table, dict[int, Reject]]]
WHOLE = 1 << 64


def thin_out(batches: Batches, share: float, limit: int | None = None) -> Batches:
    """The `share` of records whose key hashes low, which a larger share includes; of these the first `limit`."""
    for records, rejects in batches:
        rows = list(range(len(records)))
        if share < 1:
            names = zip(*(records[name].to_pylist() for name in (ID, OBJECT, ROW)), strict=True)
            rows = [row for row, name in enumerate(names) if place(*name) < share * WHOLE]
        if limit is not None:
            rows = rows[:limit]
            limit -= len(rows)
        if len(rows) < len(records):
            records = records.take(rows)
            rejects = {at: rejects[row] for at, row in enumerate(rows) if row in rejects}
        if rows:
            yield records, rejects
        if limit == 0:
            return


def place(key: str | None, source_object: str, row: int) -> int:
    """A record's place among 2^64, by its id or, where it has none, by where it stands."""
    return xxhash.xxh3_64_intdigest((key if key is not None else f"{source_object}#{row}").encode())


def first_units(source: Source, units: list[dict], share: float, limit: int) -> list[dict]:
    """The units that hold the first `limit` records, each with its part of it; counted by reading where need be."""
    taken = []
    for unit in units:
        if limit == 0:
            break
        if source.exact and share == 1:
            rows = min(unit["rows"], limit)
        else:
            rows = sum(len(records) for records, _ in thin_out(source.read(unit), share, limit))
        taken.append(unit | {"rows": rows, "limit": rows})
        limit -= rows
    return taken
