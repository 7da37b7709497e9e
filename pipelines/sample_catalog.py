"""A small generated catalog, for `make demo` and for tests.

    python -m pipelines.sample_catalog FOLDER

writes FOLDER/catalog.parquet and FOLDER/query.png. Each record is a shape in two colours with a caption and a price.
As in real catalogs, some records have only a text, some only an image, and one image is damaged.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.pen import SIZE
from pipelines.drawings.pen import draw as draw_scene
from pipelines.drawings.scenes import COLOURS, Scene

__all__ = ["COLOURS", "SCHEMA", "SHAPES", "SIZE", "draw", "records", "write_catalog"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("price", pa.float64()),
        ("shape", pa.string()),
    ]
)


def draw(shape: str, colour: str, background: str) -> bytes:
    """A PNG of one large shape in the centre, SIZE x SIZE pixels."""
    return draw_scene(Scene(shape, colour, background))


def records() -> Iterator[dict[str, Any]]:
    """The 336 records, always the same: six shapes in eight colours on seven backgrounds each."""
    pairs = itertools.permutations(COLOURS, 2)
    for number, (shape, (colour, background)) in enumerate(itertools.product(SHAPES, pairs)):
        yield {
            "id": f"{shape}-{colour}-on-{background}",
            "text": None if number % 7 == 3 else f"a {colour} {shape} on a {background} background",
            "image": None if number % 7 == 5 else draw(shape, colour, background),
            "price": round(5 + number * 0.25, 2),
            "shape": shape,
        }


def write_catalog(folder: Path, row_group_size: int = 64) -> Path:
    """Write the catalog, with one image truncated, and the image `query.png`; returns the catalog's path."""
    rows = list(records())
    rows[10] |= {"image": rows[10]["image"][:200]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "catalog.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=row_group_size)
    (folder / "query.png").write_bytes(draw("star", "yellow", "blue"))
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m pipelines.sample_catalog FOLDER")
    print(write_catalog(Path(sys.argv[1])))
