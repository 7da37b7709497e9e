"""A part of a source: always the same records, whatever the batches and units."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import Reject, read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.excerpt import first_units, thin_out
from pipelines.sources.kinds import open_source

SCHEMA = read_schema(pa.schema([]))


def batches(sizes: list[int], has_ids: bool = True):
    row = 0
    for size in sizes:
        rows = range(row, row + size)
        records = [{"id": f"k{n}" if has_ids else None, "_object": "o", "_row": n} for n in rows]
        yield (
            pa.Table.from_pylist(records, schema=SCHEMA),
            {at: Reject("read", f"r{n}", "") for at, n in enumerate(rows)},
        )
        row += size


def taken(parts) -> list[int]:
    """The rows that were kept; fails if a reject came with another row than its own."""
    rows = []
    for records, rejects in parts:
        assert len(records), "an empty batch"
        assert [rejects[at].reason for at in range(len(records))] == [f"r{n}" for n in records["_row"].to_pylist()]
        rows += records["_row"].to_pylist()
    return rows


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 100))
def test_the_first_records_across_batches(sizes, limit):
    assert taken(thin_out(batches(sizes), 1, limit)) == list(range(min(sum(sizes), limit)))


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_share_is_about_that_and_a_larger_one_includes_it(has_ids):
    tenth, half = (set(taken(thin_out(batches([1000, 1000], has_ids), share))) for share in (0.1, 0.5))
    assert tenth < half
    assert 150 < len(tenth) < 250
    assert 900 < len(half) < 1100
    assert set(taken(thin_out(batches([500] * 4, has_ids), 0.5))) == half


def test_the_limit_counts_what_the_share_leaves():
    rows = taken(thin_out(batches([100] * 10), 0.5))
    assert taken(thin_out(batches([100] * 10), 0.5, 30)) == rows[:30]


@pytest.fixture
def source(tmp_path):
    for name in ("a", "b"):
        texts = {"id": [f"{name}{n}" for n in range(50)], "text": ["x"] * 50}
        pq.write_table(pa.table(texts), tmp_path / f"{name}.parquet", row_group_size=20)
    return open_source(str(tmp_path), Columns())


def read(source, units: list[dict], share: float) -> list[str]:
    units = json.loads(json.dumps(units))
    parts = [part for unit in units for part in thin_out(source.read(unit), share, unit.get("limit"))]
    return [key for records, _ in parts for key in records["id"].to_pylist()]


@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.parametrize("limit", [1, 20, 37, 1000])
def test_units_share_a_limit(source, share, limit):
    everything = read(source, source.units(), share)
    units = first_units(source, source.units(), share, limit)
    assert read(source, units, share) == everything[:limit]
    assert sum(unit["rows"] for unit in units) == len(everything[:limit])


def test_no_unit_is_read_for_a_limit_that_the_listing_answers(source, monkeypatch):
    monkeypatch.setattr(type(source), "read", None)
    assert [unit["rows"] for unit in first_units(source, source.units(), 1, 25)] == [20, 5]
