"""Dropping a vector column: what belongs to it goes, readers see that at once, and the summary says what is freed."""

import dataclasses
import json

import lance
import pytest

from pipelines.drop_column import DropConfig, drop
from pipelines.rollback import RollbackConfig, roll_back_table
from pipelines.switch import SwitchConfig, switch_column
from pipelines.tables.column_size import ColumnSize, column_size
from pipelines.tables.default_column import default_column
from pipelines.tables.lease import LeaseHeldError, take
from pipelines.tables.origin import Origin
from pipelines.tables.search_setting import SearchSetting
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.columns import NARROW, ROWS, filled, foreign_table, published_at, published_table
from tests.pipelines.tables.conftest import ORIGIN, contents, tags, write
from tests.tables import COLUMN, NO_RUNS
from vista_core import UsageError


def dropped(db, column: str, **options):
    return drop(DropConfig(str(db), "t", column, **options))


def switched(db) -> lance.LanceDataset:
    """A published table whose default column is the second one."""
    table = filled(published_table(db))
    switch_column(SwitchConfig(str(db), "t", "vector_b"))
    return lance.dataset(table.uri)


def test_the_column_goes_with_its_fingerprints_indexes_and_settings(tmp_path):
    table = filled(published_table(tmp_path))
    table.create_index("vector_b", "IVF_FLAT", name="b_1", num_partitions=2, metric="cosine")
    table.create_index("vector", "IVF_FLAT", name="a_1", num_partitions=2, metric="cosine")
    for name in ("b_1", "a_1"):
        SearchSetting(name, 2, 0, 0.95, 1.0).store(lance.dataset(table.uri))
    done = dropped(tmp_path, "vector_b")
    readers = published_at(table.uri)
    assert readers.version == done.version == lance.dataset(table.uri).version - 2, "the tag, and the lease's end"
    assert not {"vector_b", "vector_b_fingerprint"} & set(readers.schema.names)
    assert {"vector", "vector_fingerprint"} <= set(readers.schema.names)
    assert {index.name for index in readers.describe_indices()} == {"a_1"}
    assert [key for key in readers.config() if key.startswith("vista.search.")] == ["vista.search.a_1"]
    assert contents(readers) == contents(table)
    assert (done.columns, done.indexes) == (["vector_b", "vector_b_fingerprint"], ["b_1"])
    assert VectorColumn.of(readers.schema) == COLUMN
    assert Origin.of(readers) == ORIGIN, "it is about the other column"


def test_the_first_column_goes_once_another_one_is_the_default(tmp_path):
    table = switched(tmp_path)
    done = dropped(tmp_path, "vector")
    readers = published_at(table.uri)
    assert not {"vector", "vector_fingerprint"} & set(readers.schema.names)
    assert default_column(readers) == "vector_b"
    assert Origin.of(readers) == dataclasses.replace(ORIGIN, model="second", weights="b.pth", from_pretrained="folder")
    before = tags(table)["previous"]
    assert done.keeping == {"previous": before}
    assert f"those with a tag stay until it moves or is deleted: previous ({before})" in str(done)
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    assert {"vector", "vector_b"} <= set(published_at(table.uri).schema.names)
    assert Origin.of(published_at(table.uri)) == ORIGIN


def test_it_says_what_is_freed_and_what_of_that_is_estimated(tmp_path):
    table = filled(published_table(tmp_path))
    table.create_index("vector_b", "IVF_FLAT", name="b_1", num_partitions=2, metric="cosine")
    table = lance.dataset(table.uri)
    files = [file for each in table.get_fragments() for file in each.metadata.to_json()["files"]]
    numbers = {each.name(): each.id() for each in table.lance_schema.fields()}
    own = sum(file["file_size_bytes"] for file in files if numbers["vector_b"] in file["fields"])
    [index] = [each.total_size_bytes for each in table.describe_indices() if each.name == "b_1"]
    second = column_size(table, ["vector_b", "vector_b_fingerprint"])
    assert second == ColumnSize(own, 0, index)
    assert own >= 2 * NARROW * ROWS
    assert column_size(table, ["vector", "vector_fingerprint"]) == ColumnSize(0, ROWS * (8 * 2 + 16), 0)
    assert dropped(tmp_path, "vector_b").size == second
    assert str(second).endswith(f"kB of vectors in files of their own, {index / 1000:.1f} kB of the index")
    shared = ColumnSize(0, 3_200_000_000, None)
    assert str(shared).startswith("about 3.2 GB of vectors (estimated) in files that they share with other columns")


@pytest.mark.parametrize("published", [True, False])
def test_what_searches_need_and_what_is_no_vector_column_stays(tmp_path, published):
    table = filled(published_table(tmp_path) if published else foreign_table(tmp_path))
    version = table.version
    for column, message in {
        "vector": "--column vector: that is the default column of .*`vista switch`",
        "vector_b_fingerprint": "that is no vector column of .* Vector columns: vector, vector_b",
        "nope": r"--column nope: .* no such vector column. Vector columns: vector, vector_b",
    }.items():
        with pytest.raises(UsageError, match=message):
            dropped(tmp_path, column)
    assert lance.dataset(table.uri).version == version


def test_the_only_vector_column_is_the_default_whatever_its_name(tmp_path):
    table = foreign_table(tmp_path)
    table.alter_columns({"path": "vector", "name": "embedding"})
    with pytest.raises(UsageError, match="default column"):
        dropped(tmp_path, "embedding")


def test_what_readers_see_by_default_after_a_rollback_stays(tmp_path):
    switched(tmp_path)
    roll_back_table(RollbackConfig(str(tmp_path), "t"))
    for column in ("vector", "vector_b"):
        with pytest.raises(UsageError, match="default column"):
            dropped(tmp_path, column)


def test_rows_that_no_gate_has_judged_are_not_published(tmp_path):
    table = filled(published_table(tmp_path))
    write(tmp_path, {"new": "x"})
    with pytest.raises(UsageError, match="has other rows"):
        dropped(tmp_path, "vector_b")
    assert "vector_b" in lance.dataset(table.uri).schema.names


def test_a_foreign_table_keeps_what_is_not_vistas(tmp_path):
    """Its own column of vectors may go; one that is only named like fingerprints stays."""
    table = filled(foreign_table(tmp_path))
    table.add_columns({"vector_fingerprint": "'theirs'"})
    switch_column(SwitchConfig(str(tmp_path), "t", "vector_b"))
    done = dropped(tmp_path, "vector")
    latest = lance.dataset(table.uri)
    assert latest.schema.names == ["sku", "vector_b", "vector_b_fingerprint", "vector_fingerprint"]
    assert (done.columns, done.is_published, tags(table)) == (["vector"], False, {})
    assert "dropped `vector` from" in str(done) and "the latest version" in str(done)


@pytest.mark.parametrize("place", ["follow_default_column", "publish"])
def test_whatever_ended_it_the_same_command_finishes_it(tmp_path, monkeypatch, place):
    table = switched(tmp_path)
    readers = published_at(table.uri)

    def dies(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(f"pipelines.drop_column.{place}", dies)
        with pytest.raises(RuntimeError, match="killed"):
            dropped(tmp_path, "vector")
    assert published_at(table.uri).version == readers.version
    assert "vector" not in lance.dataset(table.uri).schema.names
    done = dropped(tmp_path, "vector")
    assert done.columns == ["vector", "vector_fingerprint"]
    assert "vector" not in published_at(table.uri).schema.names
    assert Origin.of(published_at(table.uri)).model == "second"
    with pytest.raises(UsageError, match="no such vector column"):
        dropped(tmp_path, "vector")


def test_it_is_recorded_as_a_run_and_refused_while_another_one_holds_the_table(tmp_path):
    table = filled(published_table(tmp_path))
    take(lance.dataset(table.uri), NO_RUNS)
    with pytest.raises(LeaseHeldError):
        dropped(tmp_path, "vector_b")
    done = dropped(tmp_path, "vector_b", take_over=True)
    [run] = lance.dataset(f"{tmp_path}/t_runs.lance").to_table().to_pylist()
    assert (run["status"], run["published_version"]) == ("done", done.version)
    assert json.loads(run["configuration"]) == {"drop_column": "vector_b"}
