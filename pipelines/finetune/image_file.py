"""The images of training data that come from cells of a table: gathered in one file beside the pairs."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

import pyarrow as pa
import xxhash

from pipelines.finetune.prepared import IMAGES
from pipelines.storage.uris import filesystem

FILE: Final = "images.bin"


class ImageFile:
    """A file that images are appended to, each content once. A context manager, since it must be closed."""

    def __init__(self, folder: str) -> None:
        self.uri = f"{folder}/{FILE}"
        fs, path = filesystem(self.uri)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.stream: Any = fs.open(path, "wb")
        self.numbers: dict[int, int] = {}  # of images, by the hash of their bytes
        self.places: list[tuple[str, list[str], int, int]] = []
        self.end = 0

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stream.close()

    def add(self, image: bytes, name: str) -> int:
        """The number of an image, which is written if it is new."""
        key = xxhash.xxh3_128_intdigest(image)
        if key not in self.numbers:
            self.numbers[key] = len(self.places)
            self.stream.write(image)
            self.places.append((name, [self.uri], self.end, len(image)))
            self.end += len(image)
        return self.numbers[key]

    def table(self) -> pa.Table:
        """The places of the images, by number."""
        return pa.Table.from_pylist([dict(zip(IMAGES.names, place, strict=True)) for place in self.places], IMAGES)
