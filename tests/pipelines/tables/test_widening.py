"""A column of a table gets a wider type, keeps its values, and survives a kill on the way."""

import lance
import pyarrow as pa
import pytest

from pipelines.tables.widening import WIDER, can_widen, finished, widen_to

WIDER_TYPES = [
    (pa.int32(), pa.int64()),
    (pa.uint32(), pa.int64()),
    (pa.int64(), pa.float64()),
    (pa.float32(), pa.float64()),
    (pa.timestamp("us"), pa.timestamp("ns")),
    (pa.date32(), pa.timestamp("us")),
    (pa.decimal128(5, 2), pa.decimal128(10, 3)),
    (pa.list_(pa.int32()), pa.list_(pa.int64())),
]


def table_of(folder, kind: pa.DataType, values: list) -> lance.LanceDataset:
    columns = {"id": ["a", "b"], "x": pa.array(values).cast(kind) if values else pa.nulls(2, kind)}
    return lance.write_dataset(pa.table(columns), str(folder / "t.lance"))


@pytest.mark.parametrize(("stored", "kind"), WIDER_TYPES, ids=str)
def test_a_column_gets_a_wider_type(tmp_path, stored, kind):
    assert can_widen(stored, kind)
    table = widen_to(table_of(tmp_path, stored, []), pa.schema([("x", kind), ("other", kind)]))
    assert table.schema.field("x").type == kind
    assert sorted(table.schema.names) == ["id", "x"]


@pytest.mark.parametrize(
    ("stored", "kind"), [(pa.int64(), pa.string()), (pa.bool_(), pa.int64()), (pa.struct([]), pa.int8())], ids=str
)
def test_other_types_stay(stored, kind):
    assert not can_widen(stored, kind)


@pytest.mark.parametrize("killed_after", range(4))
def test_a_run_that_was_killed_on_the_way_is_finished_by_the_next(tmp_path, killed_after):
    table = table_of(tmp_path, pa.int64(), [1, None])
    steps = [
        lambda: table.add_columns({f"x{WIDER}": "CAST(x AS DOUBLE)"}),
        lambda: table.drop_columns(["x"]),
        lambda: table.alter_columns({"path": f"x{WIDER}", "name": "x"}),
    ]
    for step in steps[:killed_after]:
        step()
    left = lance.dataset(table.uri)
    assert "x" in finished(left.schema).names
    done = widen_to(left, pa.schema([("x", pa.float64())]))
    assert done.to_table().to_pydict() == {"id": ["a", "b"], "x": [1.0, None]}
    assert done.schema.field("x").type == pa.float64()
