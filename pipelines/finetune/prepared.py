"""Training data as the processes of a training read it: pairs and the places of their images, as Arrow files.

A training prepares its data once, in its output folder. So its processes start at once, a run that goes on later has
the same data, even where a table or a log of clicks has changed, and what a model was trained with can be looked up.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.storage.uris import filesystem

ITEM: Final = pa.struct([("text", pa.string()), ("image", pa.int32())])  # image: a row of `images`, or null
PAIRS: Final = pa.schema([("query", ITEM), ("positive", ITEM), ("negatives", pa.list_(ITEM))])
# The bytes of an image: `size` bytes from `offset` of a file, which may go on in the next ones; or, if both are null, a
# whole file.
IMAGES: Final = pa.schema(
    [("name", pa.string()), ("uris", pa.list_(pa.string())), ("offset", pa.int64()), ("size", pa.int64())]
)
FACTS_FILE: Final = "data.json"  # is written last: a folder with it is complete
IMAGES_FILE: Final = "images.arrow"


@dataclass(frozen=True)
class Task:
    """Pairs of one kind, which batches don't mix with others: a table with the schema PAIRS.

    `edits`: queries are images with instructions, and find images.
    """

    name: str
    pairs: pa.Table
    edits: bool


@dataclass(frozen=True)
class Prepared:
    """The training data: its tasks, the places of its images, and facts for people, such as what was left out."""

    tasks: Sequence[Task]
    images: pa.Table
    facts: Mapping[str, Any]

    def write(self, folder: str) -> None:
        """Write the data into a folder, local or s3://."""
        for task in self.tasks:
            write_table(f"{folder}/{task.name}.arrow", task.pairs)
        write_table(f"{folder}/{IMAGES_FILE}", self.images)
        tasks = {task.name: {"pairs": len(task.pairs), "edits": task.edits} for task in self.tasks}
        write_bytes(f"{folder}/{FACTS_FILE}", json.dumps({"tasks": tasks, **self.facts}, indent=1).encode())

    @classmethod
    def open(cls, folder: str) -> Prepared | None:
        """Read what `write` wrote; None if the folder has none, or not all of it."""
        fs, path = filesystem(folder)
        try:
            facts: dict[str, Any] = json.loads(fs.cat_file(f"{path}/{FACTS_FILE}"))
        except FileNotFoundError:
            return None
        tasks = [
            Task(name, read_table(f"{folder}/{name}.arrow"), task["edits"]) for name, task in facts.pop("tasks").items()
        ]
        return cls(tasks, read_table(f"{folder}/{IMAGES_FILE}"), facts)

    @property
    def count(self) -> int:
        """Pairs of all tasks."""
        return sum(len(task.pairs) for task in self.tasks)


def write_table(uri: str, table: pa.Table) -> None:
    """Write an Arrow file."""
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    write_bytes(uri, stream.getbuffer())


def read_table(uri: str) -> pa.Table:
    """Read an Arrow file; a local one is mapped into memory."""
    fs, path = filesystem(uri)
    if "file" in fs.protocol:
        return pa.ipc.open_file(pa.memory_map(path)).read_all()
    return pa.ipc.open_file(pa.py_buffer(fs.cat_file(path))).read_all()


def write_bytes(uri: str, content: bytes | memoryview) -> None:
    """Write a file, with the folders above it."""
    fs, path = filesystem(uri)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, bytes(content))
