"""Training data from Parquet, and from a table with a log of clicks."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.finetune.images import ImageBytes
from pipelines.finetune.parquet import parquet_files, read_parquet
from tests.pipelines.finetune.drawn import picture
from vista_core import UsageError

RED, BLUE = picture("star", "red"), picture("star", "blue")


def read(folder, rows, schema=None):
    path = folder / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    prepared = read_parquet(parquet_files(str(folder)), str(folder), str(folder / "data"))
    return prepared, ImageBytes(prepared.images)


def test_structs_of_text_and_image(tmp_path):
    rows = [
        {
            "query": {"text": "but blue", "image": {"bytes": RED, "path": "red.png"}},
            "positive": {"text": None, "image": {"bytes": BLUE, "path": None}},
            "hard_negatives": [{"text": None, "image": {"bytes": RED, "path": None}}],
        }
    ] * 3
    prepared, images = read(tmp_path, rows)
    [task] = prepared.tasks
    assert (task.name, len(task.pairs), task.edits) == ("pairs", 3, True)
    pair = task.pairs.to_pylist()[2]
    assert pair["query"]["text"] == "but blue"
    assert images.read(pair["query"]["image"]) == RED
    assert images.read(pair["positive"]["image"]) == BLUE
    assert pair["negatives"] == [{"text": None, "image": pair["query"]["image"]}]
    assert len(prepared.images) == 2  # each content once


def test_texts_and_bytes(tmp_path):
    rows = [{"query": "a red star", "positive": RED}, {"query": "a blue star", "positive": BLUE}]
    prepared, images = read(tmp_path, rows)
    [task] = prepared.tasks
    assert not task.edits
    first, second = task.pairs.to_pylist()
    assert (first["query"], second["query"]["text"]) == ({"text": "a red star", "image": None}, "a blue star")
    assert [images.read(each["positive"]["image"]) for each in (first, second)] == [RED, BLUE]


def test_empty_pairs_are_left_out_and_counted(tmp_path):
    rows = [{"query": "a", "positive": "b"}, {"query": None, "positive": "b"}, {"query": "a", "positive": ""}]
    prepared, _ = read(tmp_path, rows)
    assert prepared.count == 1
    assert prepared.facts["pairs left out, as their query or positive is empty"] == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"query": "a", "answer": "b"}], "no column positive; there are query, answer"),
        ([{"query": "a", "positive": 3}], "int is neither a text nor the bytes"),
        ([{"query": "", "positive": "b"}], "no pair is left to train with, of 1"),
    ],
)
def test_files_that_hold_no_pairs(tmp_path, rows, said):
    with pytest.raises(UsageError, match=said):
        read(tmp_path, rows)


def test_options_name_one_source(tmp_path):
    from pipelines.finetune.config import FinetuneConfig

    for given in ({}, {"data": "d", "db": "x"}, {"db": "x", "table": "t"}, {"data": "d", "clicks": "c"}):
        with pytest.raises(UsageError, match=r"name the --data; or a --table of a --db, and the --clicks"):
            FinetuneConfig(output=str(tmp_path), **given)
