"""A folder of images with metadata, as `imagefolder` of Hugging Face has it: the metadata is the catalog."""

import io
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.images import ImageFolder


def image(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def metadata(kind: str, **columns: list) -> bytes:
    frame, file = pd.DataFrame(columns), io.BytesIO()
    if kind == "parquet":
        frame.to_parquet(file)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False)
    return file.getvalue()


def records(source) -> list[dict]:
    rows = []
    for unit in source.units():
        for table, rejects in source.read(unit):
            assert not rejects
            rows += table.to_pylist()
    return rows


KINDS = ["csv", "jsonl", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_names_the_images_by_paths_relative_to_its_own_folder(store, kind):
    for split in ("train", "test"):
        store.put(f"{split}/metadata.{kind}", metadata(kind, file_name=["1.png", "sub/2.png"], caption=["one", split]))
        for name in ("1.png", "sub/2.png"):
            store.put(f"{split}/{name}", image(1))
        store.put(f"{split}/other.csv", b"text\nnot the metadata\n")
    source = open_source(store.root, Columns())
    assert (source.layout.image, source.external_images) == ("file_name", True)
    assert sorted(Path(file).name for file in source.files()) == [f"metadata.{kind}"] * 2
    assert [(row["text"], row["image_uri"], row["_object"]) for row in records(source)] == [
        (text, name, store.uri(f"{split}/metadata.{kind}"))
        for split in ("test", "train")
        for text, name in (("one", "1.png"), (split, "sub/2.png"))
    ]
    assert not any("does not name" in line for line in source.describe())


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_the_metadata_does_not_name_are_counted_at_the_start(local, kind):
    local.put(f"train/metadata.{kind}", metadata(kind, file_name=["./1.png", None], caption=["one", "none"]))
    for name in ("train/1.png", "train/2.png", "3.JPG"):
        local.put(name, image(1))
    said = open_source(local.root, Columns()).describe()
    assert f"NOT READ, as the metadata does not name them: 2 of 3 images, such as {local.uri('3.JPG')}" in said


def test_the_records_are_those_that_the_datasets_library_reads(local, tmp_path):
    local.put("train/metadata.csv", metadata("csv", file_name=["b.png", "a.png"], text=["blue", "amber"], n=[1, 2]))
    for number, name in enumerate(("a.png", "b.png")):
        local.put(f"train/{name}", image(number))
    expected = datasets.load_dataset("imagefolder", data_dir=local.root, split="train", cache_dir=str(tmp_path / "hf"))
    expected = {row["text"]: row for row in expected}
    found = records(open_source(local.root, Columns()))
    assert [row["text"] for row in found] == ["blue", "amber"]
    for row in found:
        other = expected[row["text"]]
        assert row["n"] == other["n"]
        with Image.open(Path(row["_object"]).parent / row["image_uri"]) as mine:
            assert mine.getpixel((0, 0)) == other["image"].getpixel((0, 0))


def test_a_user_may_choose_the_images(local):
    local.put("metadata.csv", metadata("csv", file_name=["1.png"], caption=["one"]))
    local.put("1.png", image(1))
    assert isinstance(open_source(local.root, Columns(), kind="images"), ImageFolder)


def test_a_table_beside_metadata_without_images_is_read_as_before(local):
    local.put("metadata.csv", metadata("csv", id=["1"], caption=["one"]))
    local.put("more.csv", metadata("csv", id=["2"], caption=["two"]))
    assert [row["id"] for row in records(open_source(local.root, Columns()))] == ["1", "2"]
