"""Reads training data in the layout of VISTA-S2: JSON lines beside their images.

    edit_image.jsonl  {"query": [image, text], "positive": image, "hard_negative": [image, ...],
                       "q_type": "mm_it", "c_type": "image"}
    t2it.jsonl        {"query": text, "positive": [image, text], "hard_negative": [[image, text], ...],
                       "q_type": "text", "c_type": "mm_it"}
    images/           or images.tar.part00, images.tar.part01, ...: a tar of images/ that is cut into parts

Each file of lines is a task. An image is named by its path from the folder that the files are in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow as pa

from pipelines.finetune.images import CutTar, LooseFiles, Numbered
from pipelines.finetune.prepared import PAIRS, Prepared, Task
from pipelines.storage.uris import filesystem
from vista_core import UsageError

LINES_AT_ONCE: Final = 65_536  # that are held as Python objects
TEXT, IMAGE, BOTH = "text", "image", "mm_it"  # q_type, c_type

log = logging.getLogger(__name__)


class MissingImageError(Exception):
    """A pair names an image that isn't there."""


def has_lines(folder: str) -> bool:
    """True if there are JSON lines in a folder."""
    fs, path = filesystem(folder)
    return fs.isdir(path) and any(name.endswith(".jsonl") for name in fs.ls(path, detail=False))


def read_layout(folder: str) -> Prepared:
    """The pairs of all JSON lines of a folder, local or s3://, and the places of their images.

    Pairs whose query or positive has an image that isn't there are left out, and counted. Raises UsageError for a line
    that can't be used, and if nothing is left.
    """
    fs, path = filesystem(folder)
    path = path.rstrip("/")
    try:
        names = sorted(each.rstrip("/").rpartition("/")[2] for each in fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"--data {folder}: there is no such folder") from error
    files = [name for name in names if name.endswith(".jsonl")]
    if not files:
        raise UsageError(f"--data {folder}: neither NAME.jsonl with the pairs of a task nor NAME.parquet is in it")
    parts = [f"{path}/{name}" for name in names if name == "images.tar" or name.startswith("images.tar.part")]
    images = Numbered(CutTar.open(fs, parts) if parts else LooseFiles.open(fs, f"{path}/images"))
    tasks, skipped = [], 0
    for name in files:
        with fs.open(f"{path}/{name}", "rb") as lines:
            reader = PairReader(f"{folder}/{name}", images)
            pairs = pa.Table.from_batches(list(reader.batches(lines)), PAIRS)
        skipped += reader.skipped
        if len(pairs):
            tasks.append(Task(name.removesuffix(".jsonl"), pairs, reader.edits))
    if images.missing:
        more = f" and {len(images.missing) - 3:,} more" if len(images.missing) > 3 else ""
        some = ", ".join(sorted(images.missing)[:3]) + more
        log.warning("%s: %s pairs left out, as images are not there: %s", folder, skipped, some)
    if not tasks:
        raise UsageError(f"--data {folder}: no pair is left to train with, of {skipped:,}: their images are not there")
    return Prepared(tasks, images.table(), {"source": folder, "pairs left out, as their images are missing": skipped})


@dataclass
class PairReader:
    """Reads the lines of a file."""

    uri: str
    images: Numbered
    skipped: int = 0
    edits: bool = True  # as long as all are

    def batches(self, lines: IO[bytes]) -> Iterator[pa.RecordBatch]:
        """The pairs of a file with the schema PAIRS. Raises UsageError, which names the line that can't be used."""
        pairs = list[dict[str, Any]]()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                pairs.append(self.pair(json.loads(line)))
            except MissingImageError:
                self.skipped += 1
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UsageError(
                    f"{self.uri}, line {number}: {what_is_wrong(error)}. A line is an object with `query`, `positive`, "
                    "perhaps `hard_negative` (a list), and their kinds `q_type` and `c_type`: text, image or mm_it"
                ) from error
            if len(pairs) == LINES_AT_ONCE:
                yield pa.RecordBatch.from_pylist(pairs, PAIRS)
                pairs.clear()
        yield pa.RecordBatch.from_pylist(pairs, PAIRS)

    def pair(self, line: dict[str, Any]) -> dict[str, Any]:
        """A line as a row of PAIRS. Raises MissingImageError, and ValueError or the like for another kind of line."""
        of_query, of_candidates = line["q_type"], line["c_type"]
        query, positive = self.item(line["query"], of_query), self.item(line["positive"], of_candidates)
        negatives = []
        for each in line.get("hard_negative") or ():
            try:
                negatives.append(self.item(each, of_candidates))
            except MissingImageError:
                continue
        self.edits &= (of_query, of_candidates) == (BOTH, IMAGE)
        return {"query": query, "positive": positive, "negatives": negatives}

    def item(self, value: Any, kind: str) -> dict[str, Any]:
        """A query or candidate of a kind as an ITEM."""
        if kind not in (TEXT, IMAGE, BOTH):
            raise ValueError(f"the kind {kind!r} is none of text, image, mm_it")
        image, text = value if kind == BOTH else (None, value) if kind == TEXT else (value, None)
        for each in (image, text):
            if each is not None and not isinstance(each, str):
                raise ValueError(f"{json.dumps(value)[:80]} is not of the kind {kind}")
        if not image and not text:
            raise ValueError("a query or candidate has neither text nor image")
        number = self.images.number(image) if image else None
        if image and number is None:
            raise MissingImageError
        return {"text": text or None, "image": number}


def what_is_wrong(error: Exception) -> str:
    """An error of a line in words."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
