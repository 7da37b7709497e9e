"""Filters that are made of columns, at a bounded cost."""

from datetime import date, datetime
from decimal import Decimal

import lance
import pyarrow as pa
import pytest

from pipelines.serve.config import ServeLimits
from pipelines.serve.facets import Facets, count_facets


@pytest.fixture
def facets(tmp_path):
    def count(columns: dict[str, pa.Array], rows_per_file: int = 1 << 20, **limits: int) -> Facets:
        dataset = lance.write_dataset(pa.table(columns), f"{tmp_path}/t.lance", max_rows_per_file=rows_per_file)
        return count_facets(dataset, ServeLimits(**limits))

    return count


def test_each_type_has_its_filter(facets):
    columns = {
        "number": pa.array([3, None, 1]),
        "ratio": pa.array([0.5, float("nan"), float("-inf")]),
        "cost": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(8, 2)),
        "kind": pa.array(["b", "a", "b"]),
        "flag": pa.array([True, False, True]),
        "day": pa.array([date(2026, 1, 1), date(2026, 2, 1), None]),
        "time": pa.array([datetime(2026, 1, 1, 12), datetime(2026, 2, 1), None], pa.timestamp("us")),
    }
    found = {each.column: each for each in facets(columns).facets}
    assert (found["number"].low, found["number"].high) == (1, 3)
    assert "ratio" not in found, "there is one finite value"
    assert (found["cost"].low, found["cost"].high) == ("1.50", "2.25")
    assert found["kind"].choices == [("b", 2), ("a", 1)]
    assert found["flag"].choices == [(True, 2), (False, 1)]
    assert (found["day"].type, found["day"].low) == ("date", "2026-01-01")
    assert (found["time"].type, found["time"].high) == ("datetime", "2026-02-01T00:00:00")


def test_columns_that_nobody_would_choose_by_have_none(facets):
    columns = {
        "id": pa.array(["a", "b"]),
        "text": pa.array(["x", "y"]),
        "_run": pa.array(["r", "s"]),
        "same": pa.array([1, 1]),
        "only": pa.array(["x", "x"]),
        "empty": pa.array([None, None], pa.string()),
        "long": pa.array(["x" * 100, "y"]),
        "nested.name": pa.array([1, 2]),
        "raw": pa.array([b"a", b"b"]),
        "list": pa.array([[1], [2]]),
    }
    assert [each.column for each in facets({k: v for k, v in columns.items() if "." not in k}).facets] == []


def test_a_column_with_many_values_has_no_choice(facets):
    columns = {"few": pa.array([str(row % 5) for row in range(100)]), "many": pa.array(map(str, range(100)))}
    assert [each.column for each in facets(columns).facets] == ["few"]


def test_of_a_large_table_a_bounded_number_of_rows_from_all_over_is_looked_at(facets):
    number = pa.array(range(10_000))
    found = facets({"number": number}, rows_per_file=100, facet_rows=1000)
    assert (found.rows, found.counted <= 1000) == (10_000, True)
    [facet] = found.facets
    assert facet.low < 1000
    assert facet.high > 9000


def test_an_empty_table_has_none(facets):
    assert facets({"number": pa.array([], pa.int64())}).facets == []
