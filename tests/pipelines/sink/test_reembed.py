"""A vector column is given another encoder, in place or with another dimension, while readers keep the old one."""

import dataclasses

import lance
import pyarrow as pa
import pytest

from pipelines.sink.lease import take
from pipelines.sink.publish import publish
from pipelines.sink.reembed import begin_reembedding, is_under_way
from pipelines.sink.table import IDENTITY as STORED
from pipelines.sink.table import made_from, new_table_schema, since, stored_identity
from tests.tables import DIMENSION, IDENTITY, block, commit, new_committer, tally
from vista_core import UsageError

WIDE = dataclasses.replace(IDENTITY, dimension=2 * DIMENSION)
OTHER = dataclasses.replace(IDENTITY, weights="9" * 64)


@pytest.fixture
def uri(tmp_path) -> str:
    """A published table of two rows."""
    committer = new_committer(tmp_path)
    committer.table, lease = take(committer.table.uri, "run-1", lambda run: None)
    commit(committer, block({"a": "one", "b": "two"}), tally(2))
    publish(committer.table, lease)
    lease.release(committer.table.uri)
    return committer.table.uri


def schema_for(uri: str, identity) -> pa.Schema:
    schema = lance.dataset(uri).schema
    at = schema.get_field_index("vector")
    schema = schema.set(at, pa.field("vector", pa.list_(pa.float16(), identity.dimension)))
    return new_table_schema(schema, identity, {"model": "another"})


@pytest.mark.parametrize("identity", [OTHER, WIDE], ids=["same dimension", "another"])
def test_the_latest_version_is_of_the_new_encoder_and_the_published_one_of_the_old(uri, identity):
    before = lance.dataset(uri, version="published").to_table()
    table = begin_reembedding(lance.dataset(uri), schema_for(uri, identity), "run-2")
    assert stored_identity(table) == identity
    assert (since(table.schema), made_from(table)) == ("run-2", {"model": "another"})
    assert table.count_rows() == 2
    old = lance.dataset(uri, version="published")
    assert stored_identity(old) == IDENTITY
    assert old.to_table().equals(before)
    vectors = table.to_table(columns=["vector"])["vector"]
    assert vectors.null_count == (2 if identity is WIDE else 0)


@pytest.mark.parametrize("identity", [OTHER, WIDE], ids=["same dimension", "another"])
def test_one_that_is_under_way_goes_on_and_one_that_was_published_begins_anew(uri, identity):
    wanted = schema_for(uri, identity)
    assert not is_under_way(lance.dataset(uri), wanted)
    table = begin_reembedding(lance.dataset(uri), wanted, "run-2")
    assert is_under_way(table, wanted)
    assert begin_reembedding(table, wanted, "run-3").version == table.version
    assert not is_under_way(table, schema_for(uri, IDENTITY)), "back to the first encoder is another one"
    table, lease = take(uri, "run-3", lambda run: None)
    publish(table, lease)
    assert not is_under_way(lance.dataset(uri), wanted)
    assert since(begin_reembedding(lance.dataset(uri), wanted, "run-4").schema) == "run-4"


def test_one_that_died_between_its_steps_is_said_and_goes_on(uri):
    wanted = schema_for(uri, WIDE)
    lance.dataset(uri).drop_columns(["vector"])
    with pytest.raises(UsageError, match="--reembed ended while it replaced the column"):
        stored_identity(lance.dataset(uri))
    assert stored_identity(begin_reembedding(lance.dataset(uri), wanted, "run-2")) == WIDE


def test_somebody_elses_table_has_no_encoder(tmp_path):
    table = lance.write_dataset(pa.table({"id": ["a"], "vector": [[1.0]]}), tmp_path / "x.lance")
    assert STORED not in (table.schema.field("vector").metadata or {})
    with pytest.raises(UsageError, match="was not made by this job"):
        stored_identity(table)
