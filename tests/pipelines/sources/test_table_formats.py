"""Tables of Delta Lake are read as their current version; those of Iceberg and Hudi are refused, never loose files."""

import datetime
import json
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from tests.pipelines.sources.test_partitions import rows
from vista_core import UsageError

DAY = datetime.date(2026, 11, 1)


def catalog(*ids: str, **more: list) -> pa.Table:
    return pa.table({"id": list(ids), "title": [f"title {key}" for key in ids]} | more)


def storage(store) -> dict[str, str]:
    return {"AWS_ALLOW_HTTP": "true"} if store.root.startswith("s3:") else {}


def refusal(uri: str) -> str:
    with pytest.raises(UsageError) as raised:
        open_source(uri, Columns())
    return str(raised.value)


def test_the_current_version_is_read(store):
    uri, options = store.uri("table"), storage(store)
    write_deltalake(uri, catalog("1", "2", "3"), storage_options=options)
    write_deltalake(uri, catalog("4"), mode="append", storage_options=options)
    DeltaTable(uri, storage_options=options).delete("id = '2'")
    source = open_source(uri, Columns())
    assert rows(source, "id", "text") == [(key, f"title {key}") for key in ("1", "3", "4")]
    assert "Delta Lake table at version 2: 2 of the 3 files are current" in source.describe()
    write_deltalake(uri, catalog("5"), mode="overwrite", storage_options=options)
    assert rows(open_source(uri, Columns()), "id") == [("5",)]


def test_values_of_partitions_are_those_of_the_log_with_their_types(tmp_path):
    table = catalog("1", "2", "3", shop=["a b", "c/d%", None], day=[DAY] * 3, n=pa.array([1, 2, 3], pa.int8()))
    write_deltalake(tmp_path / "a table", table, partition_by=["shop", "day"])
    source = open_source(f"{tmp_path}/a table", Columns())
    assert rows(source, "id", "shop", "day", "n") == [("1", "a b", DAY, 1), ("2", "c/d%", DAY, 2), ("3", None, DAY, 3)]


def test_a_column_that_only_new_files_have_is_null_in_the_others(tmp_path):
    write_deltalake(tmp_path, catalog("1"))
    write_deltalake(tmp_path, catalog("2", price=[1.5]), mode="append", schema_mode="merge")
    assert rows(open_source(str(tmp_path), Columns()), "id", "price") == [("1", None), ("2", 1.5)]


def test_a_table_without_rows_is_refused(tmp_path):
    table = DeltaTable.create(tmp_path, catalog("1").schema)
    assert "version 0 of the Delta Lake table has no rows" in refusal(str(tmp_path))
    write_deltalake(table, catalog("1"), mode="append")
    table.delete()
    assert "version 2 of the Delta Lake table has no rows" in refusal(str(tmp_path))


@pytest.mark.parametrize("named", ["table/category=shoes", "table/category=shoes/*.parquet", "", "**/*.parquet"])
def test_files_of_a_table_are_not_read_one_by_one(tmp_path, named):
    write_deltalake(tmp_path / "table", catalog("1", category=["shoes"]), partition_by=["category"])
    write_deltalake(tmp_path / "table", catalog("1"), mode="append", schema_mode="merge")
    assert f"name the table itself, --source {tmp_path}/table" in refusal(f"{tmp_path}/{named}".rstrip("/"))


def test_a_table_below_a_bucket_is_found(bucket):
    write_deltalake(bucket.uri("all/table"), catalog("1"), storage_options={"AWS_ALLOW_HTTP": "true"})
    for named in ("all", "all/table/*.parquet", "all/**/*.parquet"):
        assert f"name the table itself, --source {bucket.uri('all/table')}" in refusal(bucket.uri(named))


def add_to_log(table, **actions) -> None:
    lines = [json.dumps({name: action}) for name, action in actions.items()]
    (table / "_delta_log" / "00000000000000000001.json").write_text("\n".join(lines))


def protocol(*features: str) -> dict:
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}


def test_a_table_with_deletion_vectors_is_refused(tmp_path):
    write_deltalake(tmp_path, catalog("1", "2"))
    [path] = (file.name for file in tmp_path.glob("*.parquet"))
    vector = {"storageType": "u", "pathOrInlineDv": "x" * 20, "offset": 1, "sizeInBytes": 34, "cardinality": 1}
    action = {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": True}
    add_to_log(tmp_path, protocol=protocol("deletionVectors"), add=action | {"deletionVector": vector})
    assert "has deletion vectors, which aren't read: apply them with REORG TABLE" in refusal(str(tmp_path))


def test_a_table_that_only_allows_deletion_vectors_is_read(tmp_path):
    write_deltalake(tmp_path, catalog("1", "2"))
    add_to_log(tmp_path, protocol=protocol("deletionVectors"))
    assert rows(open_source(str(tmp_path), Columns()), "id") == [("1",), ("2",)]


def test_a_table_with_column_mapping_is_refused(tmp_path):
    configuration = {"delta.columnMapping.mode": "name"}
    write_deltalake(tmp_path, catalog("1"))
    log = tmp_path / "_delta_log" / "00000000000000000000.json"
    log.write_text(log.read_text().replace('"configuration":{}', f'"configuration":{json.dumps(configuration)}'))
    assert "has column mapping, which isn't read" in refusal(str(tmp_path))


def test_a_missing_file_and_a_broken_log_are_one_sentence(tmp_path):
    write_deltalake(tmp_path, catalog("1"))
    [path] = tmp_path.glob("*.parquet")
    path.rename(tmp_path / "other.parquet")
    assert f"{path} is a file of version 0 of the table, and not there" in refusal(str(tmp_path))
    (tmp_path / "_delta_log" / "00000000000000000000.json").write_text("{")
    assert "the Delta Lake table cannot be opened" in refusal(str(tmp_path))


def test_without_the_package_the_command_to_install_it_is_named(tmp_path, monkeypatch):
    write_deltalake(tmp_path, catalog("1"))
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert "pip install '.[delta]'" in refusal(str(tmp_path))


@pytest.mark.parametrize("named", ["", "table", "table/data", "table/data/*.parquet", "*/data/*.parquet"])
def test_a_table_of_iceberg_is_refused(tmp_path, named):
    for folder in ("data", "metadata"):
        (tmp_path / "table" / folder).mkdir(parents=True)
    pq.write_table(catalog("1"), tmp_path / "table/data/a.parquet")
    (tmp_path / "table/metadata/v1.metadata.json").write_text("{}")
    said = refusal(f"{tmp_path}/{named}".rstrip("/"))
    assert "a table of Iceberg" in said
    assert f"iceberg_scan('{tmp_path}/table')" in said
    shutil.rmtree(tmp_path / "table/metadata")
    assert rows(open_source(f"{tmp_path}/{named}".rstrip("/"), Columns()), "id") == [("1",)]


def test_a_table_of_hudi_is_refused(tmp_path):
    (tmp_path / ".hoodie").mkdir()
    (tmp_path / ".hoodie/hoodie.properties").write_text("")
    pq.write_table(catalog("1"), tmp_path / "a.parquet")
    assert "a table of Hudi" in refusal(str(tmp_path))
    assert "a table of Hudi" in refusal(f"{tmp_path}/*.parquet")
