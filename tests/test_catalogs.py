"""A catalog is read back unchanged from each form in which benchmarks write it, without naming columns."""

import uuid

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.catalogs import FORMS, ROWS, catalog_id, write
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source

FLAT = ("price", "shape")  # which any form but a folder has room for


@pytest.fixture(params=["local", "s3"])
def destination(request) -> str:
    """A new local folder, and a new folder of the bucket."""
    if request.param == "local":
        return str(request.getfixturevalue("tmp_path") / "catalog")
    return request.getfixturevalue("s3").url(f"catalogs/{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def some(catalog) -> pa.Table:
    """Records with and without text or image, more than one file, shard or fragment holds."""
    table = pq.read_table(catalog)
    assert len(table) > 2 * ROWS
    return table


def records(uri: str) -> dict[str, dict]:
    """The records by id, as a worker reads them."""
    source = open_source(uri, Columns())
    found = {}
    for unit in source.units():
        for table, rejects in source.read(unit):
            assert not rejects
            for row in table.to_pylist():
                assert row["id"] not in found
                found[row["id"]] = row
    return found


def image_of(row: dict, folder: str) -> bytes | None:
    if row["image"] is not None or row["image_uri"] is None:
        return row["image"]
    fs, path = fsspec.url_to_fs(f"{folder}/{row['image_uri']}")
    return fs.cat_file(path)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_back_as_the_catalog(some, destination, form):
    found = records(write(some, form, destination))
    expected = {
        catalog_id(form, row["id"], at): row
        for at, row in enumerate(some.to_pylist())
        if form != "folder" or row["image"] is not None
    }
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert image_of(found[key], destination) == row["image"]
        assert (found[key]["text"] or None) == row["text"]
        if form != "folder":
            assert [found[key][name] for name in FLAT] == [row[name] for name in FLAT]


@pytest.mark.parametrize("form", FORMS)
def test_other_usual_names_of_columns_are_found(some, tmp_path, form):
    """The text is called `title`, and images are structs like those of Hugging Face datasets."""
    images = pa.array([{"bytes": image, "path": None} for image in some["image"].to_pylist()])
    other = some.rename_columns({"text": "title"}).set_column(2, "image", images).slice(0, 5)
    other = other.filter(pc.is_valid(other["title"]))
    found = records(write(other, form, str(tmp_path)))
    assert {row["text"] for row in found.values()} == set(other["title"].to_pylist())
    images = {image["bytes"] for image in other["image"].to_pylist()}
    assert {image_of(row, str(tmp_path)) for row in found.values()} == images


@pytest.mark.parametrize("form", FORMS)
def test_a_catalog_is_written_the_same_each_time(some, tmp_path, form):
    """Lance is the exception, since it gives files random names."""
    for name in ("1", "2"):
        write(some.slice(0, 40), form, str(tmp_path / name))
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert first
    assert first == second or form == "lance"
