"""What kind of source it is, is found by the names of what is there."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import Columns, open_source
from pipelines.sources.image_folder import ImageFolder
from pipelines.sources.parquet import Parquet
from vista_core import UsageError


@pytest.fixture
def parquet_bytes():
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["x"]}), file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.parquet", "a.PQ", "deep/down/a.snappy.parquet"])
def test_parquet_files_beside_others_are_read(store, parquet_bytes, name):
    store.put(name, parquet_bytes)
    store.put("README.md", b"about")
    store.put("cover.png", b"image")
    source = open_source(store.root, Columns())
    assert isinstance(source, Parquet)
    assert [item.uri for item in source.listing.objects] == [store.uri(name)]


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "deep/down/a.webp"])
def test_images_are_read(store, name):
    store.put(name, b"image")
    store.put("README.md", b"about")
    assert isinstance(open_source(store.root, Columns()), ImageFolder)


def test_a_glob_chooses(store, parquet_bytes):
    store.put("a.parquet", parquet_bytes)
    store.put("a.jpg", b"image")
    assert isinstance(open_source(store.uri("*.jpg"), Columns()), ImageFolder)


def test_what_cannot_be_read_is_said_with_what_is_there(store):
    store.put("a.csv", b"x")
    store.put("sub/b.JSONL", b"x")
    store.put("LICENSE", b"x")
    with pytest.raises(UsageError) as refused:
        open_source(store.root, Columns())
    assert f"--source {store.root}: no Parquet files and no images there, only: .csv, .jsonl, no suffix." in str(
        refused.value
    )


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(UsageError, match=f"--source {tmp_path}: nothing is there"):
        open_source(str(tmp_path), Columns())
