"""Opening and creating tables, and looking up rows in one version."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import lance
import pyarrow as pa
import pytest

from pipelines.tables.dataset import (
    LOOKUP_IDS,
    STORAGE_VERSION,
    TableVersion,
    ensure_dataset,
    holds_nothing,
    open_dataset,
    published,
    quoted,
    source_of,
    table_uri,
)
from tests.pipelines.tables.conftest import SCHEMA, new_table, write
from vista_core import UsageError


def test_rows_are_found_by_their_ids_in_the_version_that_was_asked_for(tmp_path):
    old = write(tmp_path, {"a": "1", "b": "2", "it's": "3"})
    new = write(tmp_path, {"b": "changed"})
    version = pickle.loads(pickle.dumps(TableVersion(old.uri, old.version)))
    found = {row["id"]: row for row in version.find(["b", "it's", "nowhere"], ["text"]).to_pylist()}
    assert {key: row["text"] for key, row in found.items()} == {"b": "2", "it's": "3"}
    assert [found["b"]["_rowaddr"], found["it's"]["_rowaddr"]] == [1, 2]
    [now] = TableVersion(new.uri, new.version).find(["b"], ["text"]).to_pylist()
    assert (now["text"], now["_rowaddr"] >> 32) == ("changed", 1)
    assert version.at([0, 2], ["id"])["id"].to_pylist() == ["a", "it's"]


def test_more_ids_than_one_query_takes_are_found(tmp_path):
    ids = [str(number) for number in range(LOOKUP_IDS + 5)]
    table = write(tmp_path, dict.fromkeys(ids, "x"))
    assert sorted(TableVersion(table.uri, table.version).find(ids)["id"].to_pylist()) == sorted(ids)


def test_nothing_is_found_in_an_empty_table_or_for_no_ids(tmp_path):
    empty, table = new_table(tmp_path), write(tmp_path, {"a": "1"})
    for version, ids in ((empty.version, ["a"]), (table.version, [])):
        found = TableVersion(table.uri, version).find(ids, ["text"])
        assert len(found) == 0
        assert found.column_names == ["id", "text", "_rowaddr"]


def test_a_table_is_created_without_rows_once(tmp_path):
    uri = table_uri(str(tmp_path), "t")
    assert uri == f"{tmp_path}/t.lance"
    assert open_dataset(uri) is None
    table = ensure_dataset(uri, SCHEMA)
    assert (table.count_rows(), table.data_storage_version) == (0, STORAGE_VERSION)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    write(tmp_path, {"a": "1"})
    assert ensure_dataset(uri, pa.schema([("other", pa.int64())])).count_rows() == 1


def test_first_runs_at_the_same_moment_make_one_table(tmp_path):
    for number in range(5):
        uri = table_uri(str(tmp_path), f"t{number}")
        with ThreadPoolExecutor(6) as pool:
            tables = list(pool.map(ensure_dataset, [uri] * 6, [SCHEMA] * 6))
        assert all(table.schema.equals(SCHEMA, check_metadata=True) for table in tables)


def test_a_table_holds_nothing_until_it_has_rows_or_a_tag(tmp_path):
    table = new_table(tmp_path)
    assert holds_nothing(table)
    table.tags.create("somebodys", table.version)
    assert not holds_nothing(lance.dataset(table.uri))
    assert not holds_nothing(write(tmp_path / "other", {"a": "1"}))


def test_a_version_that_does_not_exist_is_none(tmp_path):
    table = new_table(tmp_path)
    assert open_dataset(table.uri, table.version).version == table.version
    assert open_dataset(table.uri, table.version + 1) is None


def test_a_table_that_cannot_be_opened_is_an_error_with_its_cause(tmp_path):
    table = new_table(tmp_path)
    for manifest in (tmp_path / "t.lance" / "_versions").iterdir():
        manifest.write_bytes(b"not a manifest")
    with pytest.raises(UsageError, match=r"--db: .*t\.lance cannot be opened: .*\. Check the path$") as raised:
        open_dataset(table.uri)
    assert ".rs:" not in str(raised.value)


def test_the_published_version_is_that_of_the_tag(tmp_path):
    table = new_table(tmp_path)
    assert published(table) is None
    table.tags.create("published", table.version)
    write(tmp_path, {"a": "1"})
    assert published(lance.dataset(table.uri)) == table.version


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("shop#s3://bucket/a.parquet", "shop"),
        ("s3://bucket/a.parquet", ""),
        ("/data/t.lance#3", ""),
        ("shop#/data/t.lance#3", "shop"),
    ],
)
def test_the_source_of_a_file_precedes_its_uri(file, source):
    assert source_of(file) == source


def test_a_quoted_value_is_a_literal():
    assert quoted("it's") == "'it''s'"
