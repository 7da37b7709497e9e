"""The default column is that of a version: rows, vectors and the choice among them change in one step."""

import dataclasses

import lance
import pyarrow as pa
import pytest

from pipelines.events import Events
from pipelines.tables.default_column import default_column, searched_column, set_default_column
from pipelines.tables.lease import hold
from pipelines.tables.origin import Origin, encoder_files, follow_default_column
from pipelines.tables.publish import publish, roll_back, same_content, same_rows
from pipelines.tables.transactions import CommitConflictError
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.pipelines.tables.conftest import ORIGIN, write
from tests.tables import COLUMN, IDENTITY, NO_RUNS
from vista_core import UsageError

OTHER = VectorColumn("other", dataclasses.replace(IDENTITY, model="another"), files=EncoderFiles("w.pth", "folder"))


def with_other(db) -> lance.LanceDataset:
    """A table with a second vector column."""
    table = write(db, {"a": "x", "b": "y"})
    table.add_columns(OTHER.field)
    return lance.dataset(table.uri)


def test_a_version_keeps_its_default_column(tmp_path):
    before = with_other(tmp_path)
    after = set_default_column(before, "other")
    assert (default_column(before), default_column(after)) == ("vector", "other")
    assert default_column(lance.dataset(before.uri, version=before.version)) == "vector"
    assert default_column(write(tmp_path, {"c": "z"})) == "other", "later versions have it as well"
    with pytest.raises(CommitConflictError):
        set_default_column(before, "vector")


def test_another_default_column_is_a_difference_for_readers(tmp_path):
    before = with_other(tmp_path)
    after = set_default_column(before, "other")
    assert same_rows(before, after)
    assert not same_content(before, after)
    assert same_content(before, set_default_column(after, "vector")), "which is the default without a key"


def test_without_the_default_column_the_only_one_is_searched(tmp_path):
    table = with_other(tmp_path)
    assert searched_column(table) == "vector"
    table.drop_columns(["vector"])
    assert searched_column(lance.dataset(table.uri)) == "other"
    table.drop_columns(["other"])
    assert searched_column(lance.dataset(table.uri)) is None


def test_a_version_without_its_default_column_is_not_published_again(tmp_path):
    for number in range(2):
        with hold(with_other(tmp_path) if not number else lance.dataset(f"{tmp_path}/t.lance"), NO_RUNS) as (_, lease):
            publish(write(tmp_path, {f"id{number}": "x"}), lease, Events())
    table = set_default_column(lance.dataset(f"{tmp_path}/t.lance"), "other")
    table.drop_columns(["vector"])
    without_first = lance.dataset(table.uri).version
    table.drop_columns(["other"])
    without_both = lance.dataset(table.uri).version
    with hold(lance.dataset(table.uri), NO_RUNS) as (latest, lease):
        assert roll_back(latest, lease, Events(), without_first) == without_first
        with pytest.raises(UsageError, match=rf"version {without_both}: .*no vector column `other`"):
            roll_back(latest, lease, Events(), without_both)


def test_the_files_of_an_encoder_are_those_of_its_column_or_those_that_the_table_was_made_with(tmp_path):
    table = with_other(tmp_path)
    made_with = dataclasses.replace(ORIGIN, weights="old.pth")
    table.update_schema_metadata({key.decode(): value.decode() for key, value in made_with.metadata.items()})
    table = lance.dataset(table.uri)
    assert encoder_files(table, VectorColumn.of(table.schema, "other")) == OTHER.files
    assert encoder_files(table, VectorColumn.of(table.schema)) == EncoderFiles("old.pth")
    unknown = dataclasses.replace(COLUMN, identity=dataclasses.replace(IDENTITY, model="third"))
    assert encoder_files(table, unknown) == EncoderFiles()


def test_the_origin_names_the_default_encoder_once_no_column_has_its_own(tmp_path):
    origin = Origin("vista-tiny", "old.pth", None, {"id": "sku"}, "first", "uri")
    table = set_default_column(with_other(tmp_path), "other")
    table.update_schema_metadata({key.decode(): value.decode() for key, value in origin.metadata.items()})
    assert Origin.of(follow_default_column(table.uri)) == origin, "`vector` needs it"
    table.drop_columns(["vector"])
    followed = follow_default_column(table.uri)
    assert Origin.of(followed) == Origin("another", "w.pth", "folder", {"id": "sku"}, "first", "uri")
    assert follow_default_column(table.uri).version == followed.version, "there is nothing left to do"
    foreign = lance.write_dataset(pa.table({"x": [1]}), f"{tmp_path}/foreign.lance")
    assert follow_default_column(foreign.uri).version == foreign.version
