"""What kind of source it is, is found by names, else by first bytes, or said by the user."""

import gzip
import io
import tarfile

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.arrow import ArrowFiles
from pipelines.sources.columns import Columns
from pipelines.sources.csv_lines import Csv
from pipelines.sources.image_folder import ImageFolder
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.kinds import open_source
from pipelines.sources.lance_table import LanceTable
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
        ("00000.tar.gz", gzip.compress(tar()), WebDataset),
        ("shard", tar(), WebDataset),
        ("a.jsonl", LINE, JsonLines),
        ("a.ndjson.gz", gzip.compress(LINE), JsonLines),
        ("export.json", LINE, JsonLines),
        ("part-00000.gz", gzip.compress(LINE), JsonLines),
        ("a.csv", b"text\nx\n", Csv),
        ("a.tsv.gz", gzip.compress(b"text\nx\n"), Csv),
    ],
)
def test_files_beside_others_are_read(local, name, content, kind):
    local.put(name, content)
    local.put("README.md", b"about, of course")
    source = open_source(local.root, Columns())
    assert isinstance(source.format, kind)
    assert [item.uri for item in source.format.listing.objects] == [local.uri(name)]
    assert "other files there: 1 .md" in source.describe()
    [(records, rejects)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert (records["text"].to_pylist(), rejects) == (["x"], {})


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "deep/down/a.webp"])
def test_images_are_read(store, name):
    store.put(name, b"image")
    store.put("README.md", b"about")
    assert isinstance(open_source(store.root, Columns()), ImageFolder)


def test_shards_come_before_the_parquet_that_describes_them_and_both_before_images(store):
    store.put("00000.parquet", parquet())
    store.put("00000.jpg", b"image")
    assert isinstance(open_source(store.root, Columns()).format, Parquet)
    store.put("00000.tar", tar())
    source = open_source(store.root, Columns())
    assert isinstance(source.format, WebDataset)
    assert "NOT READ, being of another kind: 1 .parquet (a glob or --source-kind chooses)" in source.describe()
    assert "other files there: 1 .jpg" in source.describe()


def test_a_glob_chooses_and_so_does_the_user(store):
    store.put("a.parquet", parquet())
    store.put("a.jpg", b"image")
    store.put("a.log", LINE)
    assert isinstance(open_source(store.uri("*.jpg"), Columns()), ImageFolder)
    assert isinstance(open_source(store.root, Columns(), kind="images"), ImageFolder)
    assert isinstance(open_source(store.uri("a.log"), Columns(), kind="jsonl").format, JsonLines)


def test_a_lance_table_by_its_name_and_a_database_by_its_tables(store):
    lance.write_dataset(TABLE, store.uri("items.lance"))
    assert isinstance(open_source(store.uri("items.lance"), Columns()).format, LanceTable)
    with pytest.raises(UsageError, match=r"is a LanceDB database: name one of its tables, such as .*items\.lance"):
        open_source(store.root, Columns())


def test_what_cannot_be_read_is_said_with_what_is_there(store):
    store.put("a.doc", b"x")
    store.put("sub/b.DOC", b"x")
    store.put("LICENSE", b"x")
    store.put("c.json", b'[{"text": "x"}]')
    with pytest.raises(UsageError) as refused:
        open_source(store.root, Columns())
    message = str(refused.value)
    assert f"--source {store.root}: nothing there that this job reads (lance, webdataset, parquet" in message
    assert "only: 2 .doc, 1 no suffix, 1 .json. Name the files with a glob" in message
    assert "jq -c '.[]'" in message


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(UsageError, match=f"--source {tmp_path}: nothing is there"):
        open_source(str(tmp_path), Columns())


def test_types_of_the_table_hold_for_formats_without_types(local):
    local.put("a.jsonl", b'{"text": "x", "price": 1}\n')
    like = pa.schema([("price", pa.float64())])
    assert open_source(local.root, Columns(), like).extra.field("price").type == pa.float64()
