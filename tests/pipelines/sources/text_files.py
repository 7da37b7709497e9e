"""Writes JSON lines for tests, and reads JSON lines and CSV."""

import json
import pickle
from collections.abc import Iterator

import pyarrow as pa

from pipelines.records import read_schema
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.csv import Csv
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.tabular import Tabular
from pipelines.sources.units import FilePart
from pipelines.storage.files import list_files

COLUMNS = Columns()


BOM = b"\xef\xbb\xbf"


def jsonl(*rows: dict) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def open_json(uri: str, like: pa.Schema | None = None, limits: Limits = DEFAULTS) -> JsonLines:
    return JsonLines.open(list_files(uri), like, Columns(), limits)


def open_csv(uri: str, like: pa.Schema | None = None, columns: Columns = COLUMNS, limits: Limits = DEFAULTS) -> Csv:
    return Csv.open(list_files(uri), like, columns, limits)


def tabular(kind: JsonLines | Csv, columns: Columns = COLUMNS) -> Tabular:
    return Tabular.open(kind, columns, kind.listing.uri)


def units(source) -> list[FilePart]:
    """The units as a worker receives them."""
    return pickle.loads(pickle.dumps(source.units()))


def read(source: Tabular) -> tuple[list[dict], dict[int, tuple[str, str]]]:
    """The records that could be read, and by row the reasons and messages of the others."""
    rows, reasons = [], {}
    for unit in units(source):
        for table, rejects in source.without_listing().read(unit):
            assert table.schema == read_schema(source.extra)
            for number, row in enumerate(table.to_pylist()):
                if number in rejects:
                    assert row["id"] is None
                    reasons[row["_row"]] = (rejects[number].reason, rejects[number].message)
                else:
                    rows.append(row)
    return rows, reasons


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def batches(kind: JsonLines | Csv) -> Iterator[Batch]:
    for unit in units(kind):
        yield from kind.without_listing().batches(unit, kind.schema.names)


def outcomes(kind: JsonLines | Csv) -> list[tuple[int, dict | str]]:
    """For each record its offset, and its values or the reason of its reject."""
    found = []
    for batch in batches(kind):
        assert 0 < len(batch.rows) == len(batch.table) <= kind.limits.batch_rows
        for number, (row, values) in enumerate(zip(batch.rows, batch.table.to_pylist(), strict=True)):
            if number in batch.rejects:
                assert set(values.values()) == {None}
            found.append((row, batch.rejects[number].reason if number in batch.rejects else values))
    return found


def cut_every(size: int, batch_rows: int = 3) -> Limits:
    """Ranges of `size` bytes, which are read in even smaller parts."""
    return Limits(
        range_bytes=size,
        read_bytes=max(2, size // 2),
        block_bytes=max(1, size // 3),
        tail_bytes=max(1, size // 4),
        batch_rows=batch_rows,
    )
