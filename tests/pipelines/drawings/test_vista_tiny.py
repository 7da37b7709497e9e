"""vista-tiny, as it is in the repository, finds drawings of combinations that it was never trained with."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.drawings.evaluation import write_evaluation
from pipelines.sample_catalog import draw, records
from vista_core import Encoder, EncoderSettings, Record
from vista_core.hub import BUILT_IN

SEED = 1  # not that of the evaluation for which the training was chosen


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load(EncoderSettings("vista-tiny", device="cpu"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    write_evaluation(folder, SEED)
    return folder


def hit_rates(encoder, task, text=True, image=True) -> tuple[float, float]:
    """The shares of queries of which one of 1, and of 5, results is relevant; both without a part of the queries."""
    corpus, queries, qrels = (pq.read_table(task / f"{name}.parquet") for name in ("corpus", "queries", "qrels"))
    relevant = defaultdict(set)
    for row in qrels.to_pylist():
        relevant[row["query-id"]].add(row["corpus-id"])
    documents = encoder.encode([Record(None, row["image"]["bytes"]) for row in corpus.to_pylist()])
    asked = [
        Record(row["text"] if text else None, row["image"]["bytes"] if image and row["image"] else None)
        for row in queries.to_pylist()
    ]
    ids = np.array(corpus["id"].to_pylist())
    found = ids[np.argsort(-(encoder.encode(asked) @ documents.T), axis=1)[:, :5]]
    right = np.array(
        [[key in relevant[query] for key in keys] for query, keys in zip(queries["id"].to_pylist(), found, strict=True)]
    )
    assert len(right) > 500
    return right[:, 0].mean(), right.any(axis=1).mean()


@pytest.mark.parametrize("task", ["cir", "t2i"])
def test_combinations_never_seen_are_found(encoder, tasks, task):
    first, five = hit_rates(encoder, tasks / task)
    assert first >= 0.6
    assert five >= 0.8


def test_both_the_picture_and_the_instruction_are_needed(encoder, tasks):
    for part in ({"text": False}, {"image": False}):
        first, five = hit_rates(encoder, tasks / "cir", **part)
        assert first < 0.1
        assert five < 0.5


@pytest.mark.parametrize(
    ("record", "best"),
    [
        (Record("a red circle on a white background"), "circle-red-on-white"),
        (Record(None, draw("star", "yellow", "blue")), "star-yellow-on-blue"),
        (Record("this but green", draw("star", "yellow", "blue")), "star-green-on-blue"),
        (Record("make the background black", draw("ring", "red", "white")), "ring-red-on-black"),
        (Record("turn it into a cross", draw("square", "purple", "yellow")), "cross-purple-on-yellow"),
    ],
)
def test_it_finds_what_is_asked_for_in_the_sample_catalog(encoder, record, best):
    rows = list(records())
    vectors = encoder.encode([Record(row["text"], row["image"]) for row in rows])
    [query] = encoder.encode([record])
    assert rows[np.argmax(vectors @ query)]["id"] == best


def test_it_is_small_and_its_card_says_what_it_cannot_do():
    folder = BUILT_IN / "vista-tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    card = (folder / "README.md").read_text()
    for said in ("## What it can't do", "Photographs", "hit rate@5", "image alone", "chance", "## Training"):
        assert said in card
