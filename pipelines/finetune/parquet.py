"""Reads training data from Parquet: columns `query`, `positive` and perhaps `hard_negatives`, a list.

Each is a text, the bytes of an image, or a struct of a `text` and an `image`. An image is bytes, or a struct with
`bytes` as Hugging Face's data sets have it. A folder of such files is one task, named `pairs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.finetune.image_file import ImageFile
from pipelines.finetune.prepared import PAIRS, Prepared, Task
from pipelines.storage.uris import file_uri, filesystem
from vista_core import UsageError

QUERY, POSITIVE, NEGATIVES = "query", "positive", "hard_negatives"
TASK: Final = "pairs"
ROWS_AT_ONCE: Final = 1_024


def parquet_files(folder: str) -> list[str]:
    """The Parquet files of a folder, or the file itself, as URIs."""
    fs, path = filesystem(folder)
    if path.endswith(".parquet"):
        return [folder] if fs.exists(path) else []
    names = fs.ls(path, detail=False) if fs.isdir(path) else []
    return [file_uri(fs, name) for name in sorted(names) if name.endswith(".parquet")]


def read_parquet(files: Sequence[str], source: str, folder: str) -> Prepared:
    """The pairs of Parquet files; their images are written into `folder`.

    Pairs whose query or positive is null or empty are left out, and counted. Raises UsageError for files without these
    columns, and if no pair is left.
    """
    with ImageFile(folder) as images:
        reader = Rows(images)
        pairs = pa.Table.from_batches([batch for file in files for batch in reader.read(file)], PAIRS)
    if not len(pairs):
        raise UsageError(f"--data {source}: no pair is left to train with, of {reader.empty:,}: all are empty")
    edits = all(
        each["query"]["image"] is not None
        and each["query"]["text"]
        and each["positive"]["image"] is not None
        and not each["positive"]["text"]
        for each in pairs.slice(0, ROWS_AT_ONCE).to_pylist()
    )
    facts = {"source": source, "pairs left out, as their query or positive is empty": reader.empty}
    return Prepared([Task(TASK, pairs, edits)], images.table(), facts)


class Rows:
    """Reads rows, and counts those that are empty."""

    def __init__(self, images: ImageFile) -> None:
        self.images = images
        self.empty = 0

    def read(self, uri: str) -> Iterator[pa.RecordBatch]:
        """The pairs of a file. Raises UsageError if a column is missing, or has another type."""
        fs, path = filesystem(uri)
        with fs.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            if missing := [name for name in (QUERY, POSITIVE) if name not in names]:
                raise UsageError(f"{uri}: no column {' and '.join(missing)}; there are {', '.join(names)}")
            columns = [QUERY, POSITIVE, *([NEGATIVES] if NEGATIVES in names else [])]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                try:
                    found = [self.pair(row, f"{uri}#{number}") for number, row in enumerate(batch.to_pylist())]
                except TypeError as error:
                    raise UsageError(f"{uri}: {error}; see docs/finetune.md for the columns of pairs") from error
                pairs = [pair for pair in found if pair is not None]
                self.empty += len(found) - len(pairs)
                yield pa.RecordBatch.from_pylist(pairs, PAIRS)

    def pair(self, row: dict[str, Any], name: str) -> dict[str, Any] | None:
        """A row of PAIRS; None if its query or positive is empty."""
        query, positive = self.item(row[QUERY], name), self.item(row[POSITIVE], name)
        if query is None or positive is None:
            return None
        negatives = [self.item(each, name) for each in row.get(NEGATIVES) or ()]
        return {"query": query, "positive": positive, "negatives": [each for each in negatives if each is not None]}

    def item(self, value: Any, name: str) -> dict[str, Any] | None:
        """An ITEM; None if it has neither text nor image. Raises TypeError for another kind of value."""
        if isinstance(value, dict) and "bytes" not in value:
            text, image = value.get("text"), value.get("image")
        else:
            text, image = (value, None) if isinstance(value, str) else (None, value)
        if isinstance(image, dict):
            image = image.get("bytes")
        if not isinstance(text, str | None) or not isinstance(image, bytes | None):
            raise TypeError(f"{type(image or text).__name__} is neither a text nor the bytes of an image")
        if not text and not image:
            return None
        return {"text": text or None, "image": self.images.add(image, name) if image else None}
