"""What other clients do to the job's own columns is worked on, or refused with a cure that works as it is written."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.tables.origin import Origin, vista_column
from pipelines.tables.own_columns import allow_nulls, check_own_columns
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.tables.conftest import ORIGIN, write
from tests.tables import COLUMN, DIMENSION
from vista_core import UsageError

FLOAT32 = pa.list_(pa.float32(), DIMENSION)


@pytest.fixture
def table(tmp_path) -> lance.LanceDataset:
    return write(tmp_path, {"a": "one", "b": "two"})


def latest(table: lance.LanceDataset) -> lance.LanceDataset:
    return lance.dataset(table.uri)


def check(table: lance.LanceDataset) -> None:
    """What a run checks before it writes anything."""
    table = latest(table)
    Origin.of(table)
    check_own_columns(table)
    vista_column(table)


CHANGES = {
    "`_run` to `who`": lambda table: table.alter_columns({"path": "_run", "name": "who"}),
    "`vector` to `embedding`": lambda table: table.alter_columns({"path": "vector", "name": "embedding"}),
    "dropped column `vector_fingerprint`": lambda table: table.drop_columns(["vector_fingerprint"]),
    "dropped column `_object`": lambda table: table.drop_columns(["_object"]),
    "made column `id` large_string instead of string": lambda table: table.alter_columns(
        {"path": "id", "data_type": pa.large_string()}
    ),
    "made column `text` large_string": lambda table: table.alter_columns(
        {"path": "text", "data_type": pa.large_string()}
    ),
    "removed the metadata of the schema": lambda table: table.update_schema_metadata({"theirs": "1"}, replace=True),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_change_that_cannot_be_worked_on_is_refused_with_the_code_that_undoes_it(table, said):
    check(table)
    before = table.to_table()
    CHANGES[said](table)
    with pytest.raises(UsageError, match=said) as raised:
        check(table)
    message = str(raised.value)
    assert table.uri in message
    code = message[message.index("lance.dataset(") : message.rindex(")") + 1]
    exec(code, {"lance": lance, "pa": pa})
    check(table)
    assert latest(table).to_table().select(before.column_names).equals(before)


def test_a_cast_to_wider_floats_is_worked_on_and_the_encoder_is_known_from_the_version_before(table):
    table.alter_columns({"path": "vector", "data_type": FLOAT32})
    table = latest(table)
    assert table.schema.field("vector").metadata is None, "Lance drops it"
    column = vista_column(table)
    assert (column.identity, column.since, column.type) == (COLUMN.identity, COLUMN.since, FLOAT32)
    table.update_field_metadata({"vector": {k.decode(): v.decode() for k, v in column.field.metadata.items()}})
    assert VectorColumn.of(latest(table).schema) == column
    latest(table).alter_columns({"path": "vector", "data_type": COLUMN.type})
    assert vista_column(latest(table)) == COLUMN, "and back"


@pytest.mark.parametrize("how", ["dropped and added", "updated in the same commit"])
def test_vectors_of_somebody_else_are_not_taken_for_the_encoders(table, how):
    theirs = pa.table({"id": ["a", "b"], "vector": pa.array(np.full((2, DIMENSION), 0.5).tolist(), FLOAT32)})
    table.drop_columns(["vector"])
    latest(table).merge(theirs, "id")
    if how != "dropped and added":
        rows = latest(table).to_table()
        table.restore()
        lance.write_dataset(rows, table.uri, mode="overwrite")
    with pytest.raises(UsageError, match="does not name the encoder of its vectors, so another client replaced it"):
        vista_column(latest(table))


def test_a_column_that_holds_no_vectors_any_more_is_refused(table):
    table.alter_columns({"path": "vector", "data_type": pa.list_(pa.float32())})
    with pytest.raises(UsageError, match="another client made the column `vector`"):
        vista_column(latest(table))


def test_columns_that_a_run_need_not_write_may_be_dropped(table):
    table.drop_columns(["text"])
    check(table)


def test_columns_that_others_made_not_nullable_take_nulls_again(table):
    table.add_columns({"note": "'theirs'", "stars": "1"})
    assert not latest(table).schema.field("note").nullable
    table = allow_nulls(latest(table))
    assert all(field.nullable for field in table.schema)
    assert allow_nulls(table).version == table.version
    lance.write_dataset(pa.table({"id": ["c"]}), table.uri, mode="append")
    assert latest(table).to_table(["note"])["note"].to_pylist() == ["theirs", "theirs", None]


def test_a_table_that_somebody_replaced_by_their_own_is_refused(table):
    lance.write_dataset(pa.table({"id": ["a"]}), table.uri, mode="overwrite")
    with pytest.raises(UsageError, match="was not made by this job"):
        Origin.of(latest(table))
    assert Origin.of(table) == ORIGIN
