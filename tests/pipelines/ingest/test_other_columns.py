"""Rows of a table with several vector columns: each column's vector is the record's own, or is copied."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.records import FINGERPRINT, VECTOR, slot_name
from pipelines.tables.vector_column import FILLING
from tests.second_column import SECOND, add_second, filling_both, second_vector_of, stored, with_second
from tests.tables import (
    COLUMN,
    block,
    commit,
    new_committer,
    reject_reasons,
    stats,
    vector_of,
    with_other_columns_changed,
)


@pytest.fixture
def committer(tmp_path):
    """On a table of three rows with both columns."""
    before = new_committer(tmp_path)
    commit(before, block({"a": "one", "b": "two", "c": "three"}), stats(3))
    add_second(before)
    return filling_both(new_committer(tmp_path, "run-2"))


def test_vectors_and_fingerprints_of_both_columns_are_written(committer):
    commit(committer, with_second(block({"a": "ONE", "d": "four"})), stats(2))
    rows = stored(committer)
    for key, text in {"a": "ONE", "b": "two", "c": "three", "d": "four"}.items():
        assert rows[key]["vector"] == vector_of(text).tolist()
        assert rows[key]["b"] == second_vector_of(text).tolist()
        assert rows[key][COLUMN.fingerprint] == rows[key][SECOND.fingerprint] is not None
    assert (committer.counts.written, committer.counts.rewritten) == (2, 0)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_the_vector_that_the_table_has_is_copied_beside_a_new_one(committer, needs):
    changed = with_second(block({"b": "two"}), needs)
    commit(committer, changed, stats(1))
    row = stored(committer)["b"]
    assert (row["vector"], row["b"]) == (vector_of("two").tolist(), second_vector_of("two").tolist())
    assert (row["modality"], row["truncated"], row["_run"]) == ("text", False, "run-2")
    assert (committer.counts.written, committer.counts.rewritten) == (1, 0)


def test_a_row_with_changes_in_other_columns_keeps_both_vectors(committer):
    changed = with_other_columns_changed(block({"a": "one", "b": "two"}), price=7)
    commit(committer, with_second(changed, (False, False)), with_second(block({"c": "THREE"})), stats(3))
    rows = stored(committer)
    assert [(rows[key]["price"], rows[key]["modality"]) for key in "abc"] == [(7, "text"), (7, "text"), (1, "text")]
    for key, text in {"a": "one", "b": "two", "c": "THREE"}.items():
        assert (rows[key]["vector"], rows[key]["b"]) == (vector_of(text).tolist(), second_vector_of(text).tolist())
    assert (committer.counts.written, committer.counts.rewritten) == (1, 2)


@pytest.mark.parametrize("slot", [0, 1])
def test_a_bad_vector_of_any_column_rejects_the_record_and_names_the_column(committer, slot):
    records = with_second(block({"a": "ONE", "d": "four"}))
    values = np.array(records[slot_name(VECTOR, slot)].to_pylist(), np.float16)
    values[1] *= 2
    at = records.schema.get_field_index(slot_name(VECTOR, slot))
    kind = records.schema.field(at).type
    records = records.set_column(at, slot_name(VECTOR, slot), pa.array(list(values), kind))
    commit(committer, records, stats(2))
    assert reject_reasons(committer) == [("d", "bad_vector")]
    [message] = lance.dataset(committer.rejects.uri).to_table()["message"].to_pylist()
    assert message.startswith(f"the vector's norm for the column `{('vector', 'b')[slot]}` is ")
    assert stored(committer).keys() == set("abc")


def test_a_column_that_is_being_filled_keeps_its_values_for_the_same_content_alone(tmp_path):
    before = new_committer(tmp_path)
    commit(before, block({"a": "one", "b": "two"}), stats(2))
    add_second(before)
    lance.dataset(before.base.uri).update_field_metadata({"b": {FILLING.decode(): "1"}})
    foreign = [{"id": "c", "text": "theirs", "b": second_vector_of("theirs"), SECOND.fingerprint: bytes(16)}]
    table = lance.dataset(before.base.uri)
    lance.write_dataset(pa.Table.from_pylist(foreign, schema=table.schema), table.uri, mode="append")
    committer = new_committer(tmp_path, "run-2")
    records = block({"b": "TWO", "c": "three", "d": "four"})
    commit(committer, with_other_columns_changed(block({"a": "one"}), price=7), records, stats(4))
    rows = stored(committer)
    assert rows["a"]["b"] == second_vector_of("one").tolist()
    assert rows["a"][SECOND.fingerprint] == rows["a"][COLUMN.fingerprint]
    for key in "bcd":
        assert rows[key]["b"] is rows[key][SECOND.fingerprint] is None
    assert records[FINGERPRINT].to_pylist() == [rows[key][COLUMN.fingerprint] for key in "bcd"]
