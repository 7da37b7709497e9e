"""What the `datasets` library of Hugging Face writes: folders of `save_to_disk`, and Parquet as it is on the hub."""

import io

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from tests.pipelines.sources.test_partitions import rows

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["hat", "shoe"]),
    }
)


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def dataset(*ids: str, image=None) -> datasets.Dataset:
    images = [image or {"bytes": png(int(key)), "path": None} for key in ids]
    values = {"id": list(ids), "image": images, "caption": [f"c{key}" for key in ids], "label": [1] * len(ids)}
    return datasets.Dataset.from_dict(values, features=FEATURES)


def expected(*ids: str) -> list[tuple]:
    return [(key, f"c{key}", png(int(key)), 1) for key in ids]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_dataset_is_read(tmp_path, shards):
    dataset("1", "2", "3").save_to_disk(tmp_path / "saved", num_shards=shards)
    source = open_source(f"{tmp_path}/saved", Columns())
    assert rows(source, "id", "text", "image", "label") == expected("1", "2", "3")


def test_all_splits_of_a_saved_dictionary_are_read(tmp_path):
    splits = datasets.DatasetDict({"train": dataset("1", "2"), "test": dataset("3")})
    splits.save_to_disk(tmp_path / "saved")
    assert rows(open_source(f"{tmp_path}/saved", Columns()), "id", "text", "image", "label") == expected("1", "2", "3")
    assert rows(open_source(f"{tmp_path}/saved/test", Columns()), "id") == [("3",)]


def test_parquet_of_the_hub_is_read(tmp_path):
    dataset("1", "2").to_parquet(tmp_path / "train-00000-of-00001.parquet")
    assert rows(open_source(str(tmp_path), Columns()), "id", "text", "image", "label") == expected("1", "2")


def test_images_with_paths_alone_are_fetched(tmp_path):
    """As `datasets` keeps them in its cache, and in Parquet that others write from it."""
    found = dataset("1", image={"bytes": None, "path": "a.png"})
    pq.write_table(found.data.table, tmp_path / "train.parquet")
    source = open_source(str(tmp_path), Columns())
    assert source.external_images
    assert rows(source, "image", "image_uri") == [(None, "a.png")]


def test_each_image_of_a_list_is_a_record(tmp_path):
    features = datasets.Features({"id": datasets.Value("string"), "images": datasets.List(datasets.Image())})
    images = [[{"bytes": png(1), "path": None}, {"bytes": png(2), "path": "2.png"}], []]
    datasets.Dataset.from_dict({"id": ["1", "2"], "images": images}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    assert rows(open_source(str(tmp_path), Columns()), "id", "image") == [
        ("1#0", png(1)),
        ("1#1", png(2)),
        ("2#0", None),
    ]
