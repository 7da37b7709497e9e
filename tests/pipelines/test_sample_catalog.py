"""The sample catalog, which `make demo` and tests embed."""

import hashlib
import io
import runpy
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sample_catalog import SIZE, records, write_catalog


def test_records_are_always_the_same_and_have_unique_ids():
    rows = list(records())
    assert rows == list(records())
    assert len({row["id"] for row in rows}) == len(rows) == 336


def test_its_pictures_stay_what_they_are():
    """Tables that were made of it would be embedded again otherwise."""
    images = [Image.open(io.BytesIO(row["image"])) for row in records() if row["image"] is not None]
    digest = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
    assert digest == "ba41ec1fbc14ebdd43b4ee8ec0a497dccdd21472dd7935f4a9626036ad4c423f"


def test_every_record_has_a_text_or_an_image_or_both():
    kinds = [(row["text"] is not None, row["image"] is not None) for row in records()]
    assert set(kinds) == {(True, True), (True, False), (False, True)}


def test_images_show_what_their_text_says():
    first = next(records())
    assert first["text"] == "a red circle on a orange background"
    image = Image.open(io.BytesIO(first["image"]))
    assert image.size == (SIZE, SIZE)
    assert image.getpixel((SIZE // 2, SIZE // 2)) == (214, 40, 40)
    assert image.getpixel((2, 2)) == (247, 127, 0)


def test_one_image_is_damaged_and_a_query_image_lies_beside_the_file(tmp_path):
    path = write_catalog(tmp_path / "new" / "folder", row_group_size=100)
    assert pq.ParquetFile(path).num_row_groups == 4
    damaged = []
    for row in pq.read_table(path).to_pylist():
        try:
            if row["image"] is not None:
                Image.open(io.BytesIO(row["image"])).load()
        except OSError:
            damaged.append(row["id"])
    assert len(damaged) == 1
    assert Image.open(path.parent / "query.png").size == (SIZE, SIZE)


def test_the_command_writes_the_catalog_and_prints_its_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sample_catalog", str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pipelines.sample_catalog")
    runpy.run_module("pipelines.sample_catalog", run_name="__main__")
    assert capsys.readouterr().out == f"{tmp_path / 'catalog.parquet'}\n"
    assert (tmp_path / "catalog.parquet").is_file()
    monkeypatch.setattr(sys, "argv", ["sample_catalog"])
    monkeypatch.delitem(sys.modules, "pipelines.sample_catalog", raising=False)
    with pytest.raises(SystemExit, match="usage"):
        runpy.run_module("pipelines.sample_catalog", run_name="__main__")
