"""Re-embedding a vector column, with the same or another dimension, while readers keep the old vectors."""

import dataclasses

import lance
import pytest

from pipelines.events import Events
from pipelines.ingest.reembed import begin_reembedding, is_under_way
from pipelines.tables.lease import take
from pipelines.tables.origin import Origin, encoder_files, vista_column
from pipelines.tables.publish import publish
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.second_column import SECOND, add_second
from tests.tables import COLUMN, DIMENSION, IDENTITY, NO_RUNS, block, commit, new_committer, stats
from vista_core import UsageError

WIDE = VectorColumn("vector", dataclasses.replace(IDENTITY, dimension=2 * DIMENSION))
OTHER = VectorColumn("vector", dataclasses.replace(IDENTITY, weights="9" * 64))
ORIGIN = Origin("another")


@pytest.fixture
def uri(tmp_path) -> str:
    """A published table of two rows."""
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one", "b": "two"}), stats(2))
    publish_latest(committer.table.uri)
    return committer.table.uri


def publish_latest(uri: str) -> None:
    table, lease = take(lance.dataset(uri), NO_RUNS)
    publish(table, lease, Events())
    lease.release(uri)


@pytest.mark.parametrize("column", [OTHER, WIDE], ids=["same dimension", "another"])
def test_the_latest_version_names_the_new_encoder_and_the_published_one_the_old(uri, column):
    before = lance.dataset(uri, version="published").to_table()
    table, replaced = begin_reembedding(lance.dataset(uri), column, ORIGIN, "run-2")
    assert vista_column(table) == replaced == column.replaced_since("run-2")
    assert Origin.of(table) == ORIGIN
    assert table.count_rows() == 2
    old = lance.dataset(uri, version="published")
    assert vista_column(old) == COLUMN
    assert old.to_table().equals(before)
    vectors = table.to_table(columns=["vector"])["vector"]
    assert vectors.null_count == (2 if column is WIDE else 0)


@pytest.mark.parametrize("column", [OTHER, WIDE], ids=["same dimension", "another"])
def test_an_unfinished_reembedding_is_continued_and_a_published_one_starts_anew(uri, column):
    assert not is_under_way(lance.dataset(uri), column)
    table, _ = begin_reembedding(lance.dataset(uri), column, ORIGIN, "run-2")
    assert is_under_way(table, column)
    same, replaced = begin_reembedding(table, column, ORIGIN, "run-3")
    assert (same.version, replaced.since) == (table.version, "run-2")
    assert not is_under_way(table, COLUMN), "going back to the first encoder is another re-embedding"
    publish_latest(uri)
    assert not is_under_way(lance.dataset(uri), column)
    assert begin_reembedding(lance.dataset(uri), column, ORIGIN, "run-4")[1].since == "run-4"


def test_a_reembedding_killed_between_its_steps_is_reported_and_can_be_continued(uri):
    lance.dataset(uri).drop_columns(["vector"])
    with pytest.raises(UsageError, match="--reembed ended while it replaced the column"):
        vista_column(lance.dataset(uri))
    table, _ = begin_reembedding(lance.dataset(uri), WIDE, ORIGIN, "run-2")
    assert vista_column(table).identity == WIDE.identity


def test_another_column_keeps_the_files_of_its_encoder_when_the_table_names_others(tmp_path, uri):
    add_second(new_committer(tmp_path))
    made_with = dataclasses.replace(Origin("vista-tiny"), weights="old.pth")
    table = lance.dataset(uri)
    table.update_schema_metadata({key.decode(): value.decode() for key, value in made_with.metadata.items()})
    table, _ = begin_reembedding(lance.dataset(uri), OTHER, ORIGIN, "run-2")
    assert VectorColumn.of(table.schema, "b").files == EncoderFiles("old.pth")
    assert encoder_files(table, VectorColumn.of(table.schema, "b")) == EncoderFiles("old.pth")
    assert VectorColumn.of(table.schema, "b") == SECOND
