"""The kind of a source is found by names, else by first bytes, or given by the user."""

import gzip
import io
import tarfile

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.arrow import ArrowFiles
from pipelines.sources.columns import Columns
from pipelines.sources.csv import Csv
from pipelines.sources.detect import open_source
from pipelines.sources.images import ImageFolder
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.lance import LanceTable
from pipelines.sources.parquet import Parquet
from pipelines.sources.webdataset import WebDataset
from vista_core import UsageError

TABLE = pa.table({"text": ["x"]})
LINE = b'{"text": "x"}\n'


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(TABLE, file)
    return file.getvalue()


def arrow(new: type = pa.ipc.new_stream) -> bytes:
    file = io.BytesIO()
    with new(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.parquet", parquet(), Parquet),
        ("a.PQ", parquet(), Parquet),
        ("deep/down/a.snappy.parquet", parquet(), Parquet),
        ("part-00000", parquet(), Parquet),
        ("a.arrow", arrow(), ArrowFiles),
        ("a.bin", arrow(), ArrowFiles),
        ("a.bin", arrow(pa.ipc.new_file), ArrowFiles),
        ("00000.tar", tar(), WebDataset),
        ("00000.tar.gz", gzip.compress(tar(), mtime=0), WebDataset),
        ("shard", tar(), WebDataset),
        ("a.jsonl", LINE, JsonLines),
        ("a.ndjson.gz", gzip.compress(LINE, mtime=0), JsonLines),
        ("export.json", LINE, JsonLines),
        ("part-00000.gz", gzip.compress(LINE, mtime=0), JsonLines),
        ("a.csv", b"text\nx\n", Csv),
        ("a.tsv.gz", gzip.compress(b"text\nx\n", mtime=0), Csv),
    ],
)
def test_the_kind_is_found_beside_other_files(local, name, content, kind):
    local.put(name, content)
    local.put("README.md", b"about, of course")
    source = open_source(local.root, Columns())
    assert isinstance(source.format, kind)
    assert [item.uri for item in source.format.listing.files] == [local.uri(name)]
    assert "other files there: 1 .md" in source.describe()
    [(records, rejects)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert (records["text"].to_pylist(), rejects) == (["x"], {})


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "deep/down/a.webp"])
def test_a_folder_of_images_is_found(store, name):
    store.put(name, b"image")
    store.put("README.md", b"about")
    assert isinstance(open_source(store.root, Columns()), ImageFolder)


def test_shards_are_preferred_to_parquet_and_both_to_images(store):
    store.put("00000.parquet", parquet())
    store.put("00000.jpg", b"image")
    assert isinstance(open_source(store.root, Columns()).format, Parquet)
    store.put("00000.tar", tar())
    source = open_source(store.root, Columns())
    assert isinstance(source.format, WebDataset)
    assert "NOT READ, of another kind: 1 .parquet (choose with a glob or --source-kind)" in source.describe()
    assert "other files there: 1 .jpg" in source.describe()


def test_a_glob_or_the_user_chooses_the_kind(store):
    store.put("a.parquet", parquet())
    store.put("a.jpg", b"image")
    store.put("a.log", LINE)
    assert isinstance(open_source(store.uri("*.jpg"), Columns()), ImageFolder)
    assert isinstance(open_source(store.root, Columns(), kind="images"), ImageFolder)
    assert isinstance(open_source(store.uri("a.log"), Columns(), kind="jsonl").format, JsonLines)


def test_a_lance_table_is_found_by_its_name_and_a_database_by_its_tables(store):
    lance.write_dataset(TABLE, store.uri("items.lance"))
    assert isinstance(open_source(store.uri("items.lance"), Columns()).format, LanceTable)
    with pytest.raises(UsageError, match=r"is a LanceDB database: name one of its tables, such as .*items\.lance"):
        open_source(store.root, Columns())


def test_the_message_for_nothing_readable_lists_what_is_there(store):
    store.put("a.doc", b"x")
    store.put("sub/b.DOC", b"x")
    store.put("LICENSE", b"x")
    store.put("c.json", b'[{"text": "x"}]')
    with pytest.raises(UsageError) as refused:
        open_source(store.root, Columns())
    message = str(refused.value)
    assert f"--source {store.root}: no files that this job reads (lance, webdataset, parquet" in message
    assert "only: 2 .doc, 1 no suffix, 1 .json. Name the files with a glob" in message
    assert "jq -c '.[]'" in message


def test_an_empty_folder_is_reported(tmp_path):
    with pytest.raises(UsageError, match=f"--source {tmp_path}: nothing is there"):
        open_source(str(tmp_path), Columns())


def test_formats_without_types_take_them_from_the_table(local):
    local.put("a.jsonl", b'{"text": "x", "price": 1}\n')
    like = pa.schema([("price", pa.float64())])
    assert open_source(local.root, Columns(), like).extra.field("price").type == pa.float64()
