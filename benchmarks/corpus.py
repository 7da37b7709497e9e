"""Generated catalogs that take as long as real ones: photographs of realistic size, texts of very different lengths."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROW_GROUP = 256
PHOTOS = 64  # different photographs in a catalog; they repeat
WORDS = (
    "a",
    "red",
    "lamp",
    "of",
    "oak",
    "and",
    "brass",
    "for",
    "the",
    "desk",
    "with",
    "shade",
    "two",
    "metres",
    "cable",
)


def photo(number: int, width: int = 640, height: int = 480) -> bytes:
    """A JPEG of smooth shapes, texture and grain, about 70 KB at the default size in pixels."""
    draw = np.random.default_rng(number)
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 90), (16, 45), (64, 25), (160, 14)):
        field = draw.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(grown, np.float32) - 128) * (strength / 128)
    pixels += 128 + draw.normal(0, 4, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def texts(count: int) -> Iterator[str]:
    """Descriptions of very different lengths: 40 tokens on average, at most about 340."""
    draw = np.random.default_rng(1)
    for length in np.clip(draw.lognormal(3.4, 0.8, count), 2, 338).astype(int):
        yield " ".join(draw.choice(WORDS, length))


def mixed(count: int, images: float) -> pa.Table:
    """A catalog in which the fraction `images` of the records has an image, and about half of these have no text."""
    photos = [photo(number) for number in range(min(count, PHOTOS))]
    with_image = np.random.default_rng(2).random(count) < images
    rows = [
        {
            "id": f"item-{number:06}",
            "text": None if image and number % 2 else text,
            "image": photos[number % PHOTOS] if image else None,
        }
        for number, (text, image) in enumerate(zip(texts(count), with_image, strict=True))
    ]
    return pa.Table.from_pylist(rows, pa.schema({"id": pa.string(), "text": pa.string(), "image": pa.binary()}))


def write(table: pa.Table, path: Path) -> Path:
    """Write a catalog as Parquet with inline images; returns the path."""
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none", use_dictionary=False)
    return path
