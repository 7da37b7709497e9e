"""A small task in the layout of MTEB: drawn shapes, queries of texts, images and both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from pipelines.sample_catalog import draw
from vista_core.hub import BUILT_IN

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "triangle")


def write_task(folder: Path) -> Path:
    """18 documents, of which every third has text as well; 12 queries, of which one is not judged."""
    folder.mkdir(parents=True)
    documents = [
        {
            "id": f"{colour}-{shape}",
            "text": f"a {colour} {shape}" if number % 3 == 0 else None,
            "image": draw(shape, colour, "white"),
        }
        for number, (colour, shape) in enumerate((colour, shape) for colour in COLOURS for shape in SHAPES)
    ]
    queries, qrels = [], []
    for number, colour in enumerate(COLOURS):
        other = COLOURS[(number + 1) % len(COLOURS)]
        queries.append({"id": f"text-{colour}", "text": f"a {colour} thing", "image": None, "kind": "text"})
        qrels += [(f"text-{colour}", f"{colour}-{shape}", 1) for shape in SHAPES]
        queries.append(
            {
                "id": f"edit-{colour}",
                "text": f"make it {other}",
                "image": draw("circle", colour, "white"),
                "kind": "edit",
            }
        )
        qrels += [(f"edit-{colour}", f"{other}-circle", 2), (f"edit-{colour}", f"{other}-square", 1)]
    qrels = [each for each in qrels if each[0] != "edit-black"]
    write(folder / "corpus.parquet", documents)
    write(folder / "queries.parquet", queries)
    write(folder / "qrels.parquet", [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in qrels])
    return folder


def write(path: Path, rows: list[dict]) -> None:
    """A Parquet file."""
    pq.write_table(pa.Table.from_pylist(rows), path)


def spoiled_weights(path: Path) -> str:
    """Weights of vista-tiny for which all words are the same."""
    tensors = safetensors.numpy.load_file(BUILT_IN / "vista-tiny" / "model.safetensors")
    words = max(tensors, key=lambda name: len(tensors[name]) if tensors[name].ndim else 0)
    safetensors.numpy.save_file(tensors | {words: np.zeros_like(tensors[words])}, path)
    return str(path)
