"""Each gate lets a good table pass and stops one with the fault that it is for."""

import dataclasses

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from pipelines.sink.commit import Counts
from pipelines.sink.gates import Candidate, conservation, one_encoder, sound_vectors, unique_ids
from pipelines.sink.lease import take
from pipelines.sink.publish import publish
from pipelines.sink.reembed import begin_reembedding
from pipelines.sink.table import new_table_schema
from tests.tables import DIMENSION, IDENTITY, block, commit, new_committer, tally


@pytest.fixture
def uri(tmp_path) -> str:
    """A published table of three rows."""
    committer = new_committer(tmp_path)
    uri = committer.table.uri
    committer.table, lease = take(uri, "run-1", lambda run: None)
    commit(committer, block({"a": "one", "b": "two", "c": "three"}), tally(3))
    publish(committer.table, lease)
    lease.release(uri)
    return uri


def candidate(uri: str, is_first: bool = False) -> Candidate:
    return Candidate(lance.dataset(uri), None if is_first else lance.dataset(uri, version="published"), IDENTITY)


def append(uri: str, rows: pa.Table) -> None:
    """Somebody else's rows, whatever they are."""
    fragments = write_fragments(rows, uri, schema=rows.schema, mode="append")
    dataset = lance.dataset(uri)
    lance.LanceDataset.commit(uri, lance.LanceOperation.Append(fragments), read_version=dataset.version)


def rows_of(uri: str, ids: dict[str, str], vectors: np.ndarray | None = None) -> pa.Table:
    """Rows like the table's own, with other ids."""
    table = lance.dataset(uri).to_table().slice(0, 1)
    table = pa.concat_tables([table] * len(ids)).set_column(0, "id", pa.array(list(ids), pa.string()))
    table = table.set_column(table.schema.get_field_index("_run"), "_run", pa.array(list(ids.values()), pa.string()))
    if vectors is not None:
        kind = table.schema.field("vector").type
        column = pa.array([None if row is None else row.tolist() for row in vectors], kind)
        table = table.set_column(table.schema.get_field_index("vector"), "vector", column)
    return table.cast(lance.dataset(uri).schema)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_good_table_passes(tmp_path, uri, is_first):
    commit(new_committer(tmp_path, "run-2"), block({"a": "ONE", "d": "four"}), tally(2))
    judged = candidate(uri, is_first)
    assert all(gate(judged).passed for gate in (unique_ids, sound_vectors, one_encoder))
    assert len(judged.fresh) == (2 if is_first else 1)


def test_only_what_differs_from_the_published_version_is_looked_at(tmp_path, uri):
    assert candidate(uri).fresh == []
    commit(new_committer(tmp_path, "run-2"), block({"a": "ONE", "d": "four"}), tally(2))
    [fragment] = candidate(uri).fresh
    assert sorted(fragment.to_table(columns=["id"])["id"].to_pylist()) == ["a", "d"]
    dataset = lance.dataset(uri)
    dataset.optimize.compact_files(target_rows_per_fragment=100)
    judged = candidate(uri)
    new = judged.table.scanner(columns=["id"], filter=judged.new_rows, fragments=judged.fresh).to_table()
    assert sorted(new["id"].to_pylist()) == ["a", "d"], "a compaction makes no row a new one"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("ids", [["a"], ["x", "x"], ["a", "x"]], ids=str)
def test_a_doubled_id_is_found(uri, ids, is_first):
    append(uri, pa.concat_tables([rows_of(uri, {key: "run-9"}) for key in ids]))
    verdict = unique_ids(candidate(uri, is_first))
    assert not verdict.passed
    assert f"{'x' if ids == ['x', 'x'] else 'a'}' 2 times" in verdict.message


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1.0, None])
def test_a_vector_that_is_none_is_found_however_it_came_to_the_table(uri, value):
    vector = None if value is None else np.full(DIMENSION, value, np.float16)
    append(uri, rows_of(uri, {"x": "run-9"}, [vector]))
    assert sound_vectors(candidate(uri)) == dataclasses.replace(
        sound_vectors(candidate(uri)),
        passed=False,
        message="1 of 1 fresh vectors are not finite or not of norm 1",
    )


def test_a_column_of_another_encoder_or_with_vectors_of_two_is_found(tmp_path, uri):
    other = dataclasses.replace(candidate(uri), identity=dataclasses.replace(IDENTITY, alpha="white"))
    assert "alpha" in one_encoder(other).message
    schema = lance.dataset(uri).schema
    begin_reembedding(lance.dataset(uri), new_table_schema(schema, IDENTITY, {}), "run-2")
    assert "3 rows still have the vectors of another encoder" in one_encoder(candidate(uri)).message
    commit(new_committer(tmp_path, "run-2"), block({"a": "one", "b": "two"}), tally(2))
    assert "1 rows still have" in one_encoder(candidate(uri)).message
    commit(new_committer(tmp_path, "run-3"), block({"c": "three"}), tally(1))
    assert one_encoder(candidate(uri)).passed


def test_the_law_of_conservation():
    assert conservation(Counts(read=6, written=1, rewritten=2, unchanged=3)).passed
    verdict = conservation(Counts(read=7, written=1, rewritten=2, unchanged=3))
    assert not verdict.passed
    assert verdict.message == "read 7 != written 1 + rewritten 2 + unchanged 3 + rejected 0"
