"""A small generated catalog, for `make demo` and for tests.

    python -m pipelines.sample_catalog FOLDER

writes FOLDER/catalog.parquet and FOLDER/query.png. Each record is a shape in two colours with a caption and a price.
As in real catalogs, some records have only a text, some only an image, and one image is damaged.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 213, 53),
    "green": (42, 157, 68),
    "blue": (38, 84, 196),
    "purple": (123, 44, 191),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZE = 96
CORNERS = {
    "triangle": [(48, 12), (86, 82), (10, 82)],
    "star": [(48, 8), (58, 37), (89, 37), (64, 56), (73, 86), (48, 68), (23, 86), (32, 56), (7, 37), (38, 37)],
    "cross": [
        *[(36, 10), (60, 10), (60, 36), (86, 36), (86, 60), (60, 60)],
        *[(60, 86), (36, 86), (36, 60), (10, 60), (10, 36), (36, 36)],
    ],
}
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
    """A PNG of one shape, SIZE x SIZE pixels."""
    image = Image.new("RGB", (SIZE, SIZE), COLOURS[background])
    pen = ImageDraw.Draw(image)
    box = (12, 12, SIZE - 12, SIZE - 12)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "ring":
        pen.ellipse(box, outline=COLOURS[colour], width=14)
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon(CORNERS[shape], fill=COLOURS[colour])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


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
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipelines.sample_catalog FOLDER")
    print(write_catalog(Path(sys.argv[1])))
