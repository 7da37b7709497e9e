"""Columns in the names of folders are columns of the records."""

import datetime
import json
import pickle

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source

CATALOG = (
    "(VALUES ('1', 'shoe', 'a/b', DATE '2026-11-01'), ('2', 'hat', 'ü %', DATE '2026-11-02'), ('3', 'x', NULL, NULL))"
)
VALUES = [("1", "a/b", "2026-11-01"), ("2", "ü %", "2026-11-02"), ("3", None, None)]


def rows(source, *names: str) -> list[tuple]:
    """What workers read."""
    worker, found = pickle.loads(pickle.dumps(source.without_listing())), []
    for unit in source.units():
        for records, rejects in worker.read(pickle.loads(pickle.dumps(unit))):
            assert rejects == {}
            found += [tuple(row[name] for name in names) for row in records.to_pylist()]
    return sorted(found, key=str)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_folders_written_by_duckdb(tmp_path, kind):
    options = f"FORMAT {kind}, PARTITION_BY (category, day)"
    duckdb.sql(f"COPY (FROM {CATALOG} t(id, title, category, day)) TO '{tmp_path}/out' ({options})")
    source = open_source(f"{tmp_path}/out", Columns())
    assert rows(source, "id", "category", "day") == VALUES
    assert "columns in the names of folders: category (string), day (string)" in source.describe()
    assert rows(open_source(f"{tmp_path}/out/*/*/*.{kind}", Columns()), "id", "category", "day") == VALUES


def test_a_partition_has_the_columns_of_the_table(tmp_path):
    frame = pl.DataFrame({"id": ["1", "2"], "title": ["x", "y"], "category": ["shoes", "hats"]})
    frame.write_parquet(f"{tmp_path}/table", partition_by="category")
    assert rows(open_source(f"{tmp_path}/table/category=hats", Columns()), "id", "category") == [("2", "hats")]
    [file] = (tmp_path / "table" / "category=shoes").iterdir()
    assert rows(open_source(str(file), Columns()), "id", "category") == [("1", "shoes")]


def test_json_lines_keep_the_columns_in_a_later_run(tmp_path):
    """The columns of the table are read from JSON lines even if no sampled line has them."""
    folder = tmp_path / "run=3" / "category=shoes"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text(json.dumps({"id": "1", "text": "x"}) + "\n")
    table = pa.schema([("id", pa.string()), ("text", pa.string()), ("category", pa.string()), ("run", pa.string())])
    source = open_source(str(tmp_path), Columns(), like=table)
    assert rows(source, "id", "category", "run") == [("1", "shoes", "3")]


def test_a_column_of_the_files_wins_and_that_is_said(tmp_path):
    for day, own in (("2026-11-01", {"day": [datetime.date(2000, 1, 1)]}), ("2026-11-02", {})):
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        pq.write_table(pa.table({"id": [day], "title": ["x"]} | own), folder / "a.parquet")
    source = open_source(str(tmp_path), Columns())
    assert "files have day themselves, and their values are taken" in source.describe()
    assert rows(source, "id", "day") == [
        ("2026-11-01", datetime.date(2000, 1, 1)),
        ("2026-11-02", datetime.date(2026, 11, 2)),
    ]


def test_a_column_in_the_names_can_be_the_text(tmp_path):
    folder = tmp_path / "cls=dog"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["1"], "image": [b"1"]}), folder / "a.parquet")
    assert rows(open_source(str(tmp_path), Columns()), "id", "text") == [("1", "dog")]


def test_files_beside_the_folders_have_no_value(tmp_path):
    (tmp_path / "category=shoes").mkdir()
    for name in ("category=shoes/a.parquet", "b.parquet"):
        pq.write_table(pa.table({"id": [name[-9]], "title": ["x"]}), tmp_path / name)
    assert rows(open_source(str(tmp_path), Columns()), "category") == [("shoes",), (None,)]
