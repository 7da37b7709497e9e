"""A run over a part of a source reads the same records each time, whatever the batches and units."""

import pickle
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reasons import Reject
from pipelines.records import read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.scope import WHOLE, Batches, Scope
from pipelines.sources.source import units_in
from pipelines.sources.tabular import Tabular
from pipelines.sources.units import Unit

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
    """The rows that were kept. Fails if a reject is at another row than its own."""
    rows = []
    for records, rejects in parts:
        assert len(records), "an empty batch"
        assert [rejects[at].reason for at in range(len(records))] == [f"r{n}" for n in records["_row"].to_pylist()]
        rows += records["_row"].to_pylist()
    return rows


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 100))
def test_a_limit_takes_the_first_records_across_batches(sizes, limit):
    assert taken(Scope(limit=limit).select(batches(sizes))) == list(range(min(sum(sizes), limit)))


@given(st.lists(st.integers(1, 40), max_size=6))
def test_without_a_share_or_limit_all_records_are_taken(sizes):
    assert taken(WHOLE.select(batches(sizes))) == list(range(sum(sizes)))


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_larger_share_includes_a_smaller_one(has_ids):
    tenth, half = (set(taken(Scope(share).select(batches([1000, 1000], has_ids)))) for share in (0.1, 0.5))
    assert tenth < half
    assert 150 < len(tenth) < 250
    assert 900 < len(half) < 1100
    assert set(taken(Scope(0.5).select(batches([500] * 4, has_ids)))) == half


def test_the_limit_applies_to_the_records_of_the_share():
    rows = taken(Scope(0.5).select(batches([100] * 10)))
    assert taken(Scope(0.5, 30).select(batches([100] * 10))) == rows[:30]


@pytest.mark.parametrize(
    ("scope", "lines"),
    [
        (WHOLE, []),
        (Scope(0.01), ["ONLY a sample of 1.000% of the records"]),
        (Scope(1, 5000), ["ONLY the first 5,000 records"]),
        (Scope(0.5, 10), ["ONLY a sample of 50.000% of the records", "ONLY the first 10 records"]),
    ],
)
def test_a_scope_describes_itself(scope, lines):
    assert scope.describe() == lines
    assert scope.is_whole == (not lines)


@pytest.fixture
def source(tmp_path) -> Tabular:
    for name in ("a", "b"):
        texts = {"id": [f"{name}{n}" for n in range(50)], "text": ["x"] * 50}
        pq.write_table(pa.table(texts), tmp_path / f"{name}.parquet", row_group_size=20)
    return open_source(str(tmp_path), Columns())


def read(source, units: Sequence[Unit]) -> list[str]:
    units = pickle.loads(pickle.dumps(units))
    parts = [part for unit in units for part in unit.scope.select(source.read(unit))]
    return [key for records, _ in parts for key in records["id"].to_pylist()]


@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.parametrize("limit", [1, 20, 37, 1000])
def test_the_units_of_a_limit_hold_the_first_records(source, share, limit):
    everything = read(source, units_in(Scope(share), source))
    units = units_in(Scope(share, limit), source)
    assert read(source, units) == everything[:limit]
    assert sum(unit.rows for unit in units) == len(everything[:limit])


class Estimating(Tabular):
    """A source whose units only estimate their rows."""

    exact = False


def test_units_that_estimate_their_rows_are_counted_by_reading(source):
    estimating = Estimating(source.format, source.layout)
    assert read(source, units_in(Scope(limit=25), estimating)) == read(source, source.units())[:25]


class Unreadable(Tabular):
    """A source that must not be read."""

    def read(self, unit: Unit) -> Batches:
        raise AssertionError("it is read")


def test_no_unit_is_read_if_units_know_their_rows(source):
    unreadable = Unreadable(source.format, source.layout)
    assert [unit.rows for unit in units_in(Scope(limit=25), unreadable)] == [20, 5]
    assert [unit.rows for unit in units_in(WHOLE, unreadable)] == [20, 20, 10] * 2


def test_the_rows_of_a_share_are_estimated(source):
    units = units_in(Scope(0.26), source)
    assert [unit.rows for unit in units] == [6, 6, 3] * 2, "rounded up"
    assert {unit.scope for unit in units} == {Scope(0.26)}
