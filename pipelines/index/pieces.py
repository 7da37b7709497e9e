"""What a build of a vector index has finished, kept in a table beside the indexed one, so that a killed build resumes.

`NAME_index_build` has a row for the trained model and one for each segment. It is dropped when the index is built.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import lance
import pyarrow as pa
from lance.bitmap import Bitmap
from lance.dataset import Index, IndexFile
from lance.fragment import write_fragments

from pipelines.tables.dataset import ensure_dataset, open_dataset, quoted
from pipelines.tables.transactions import append, to_json
from vista_core import UsageError

PIECE_SCHEMA = pa.schema(
    [
        ("piece", pa.string()),  # model or segment
        ("description", pa.string()),  # JSON
        ("centroids", pa.large_binary()),  # of a model, as Arrow IPC
        ("codebook", pa.large_binary()),
    ],
    metadata={b"vista.table": b"index build"},
)
Files = Mapping[int, tuple[str, ...]]  # the data files of each fragment, by its id


@dataclass(frozen=True)
class Recipe:
    """What a model was trained for. Stored as JSON, so the names of the fields are fixed."""

    column: str
    field: int  # Lance's id of the column's field, which a renamed column keeps and a new one does not have
    space: str  # what the field's metadata says of its vectors, such as their encoder
    metric: str
    kind: str
    partitions: int
    bits: int
    sub_vectors: int

    def suits(self, other: Recipe) -> bool:
        """True if a model trained for `other` serves as well: the number of partitions need not be the same."""
        as_many = other.partitions <= 2 * self.partitions and self.partitions <= 2 * other.partitions
        return as_many and self == dataclasses.replace(other, partitions=self.partitions)


@dataclass(frozen=True)
class Model:
    """What all segments of an index share, so that they can be merged."""

    recipe: Recipe
    centroids: pa.FixedSizeListArray  # [partitions, D]
    codebook: pa.FixedSizeListArray | None = None  # of PQ
    rotation: str | None = None  # of RQ, as Lance writes it

    @property
    def digest(self) -> str:
        """Tells it apart from every other model."""
        parts = [packed(self.centroids) or b"", packed(self.codebook) or b"", (self.rotation or "").encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()


@dataclass(frozen=True)
class Segment:
    """A part of an index that is written and not committed. `files` are those that its vectors were read from."""

    index: Index
    files: Files

    def is_of(self, files: Files) -> bool:
        """True if all its fragments are among `files` as it read them, apart from rows that were deleted since."""
        return all(files.get(fragment) == names for fragment, names in self.files.items())


def files_of(table: lance.LanceDataset) -> Files:
    """The data files of each fragment of a version."""
    return {each.fragment_id: tuple(file.path for file in each.metadata.files) for each in table.get_fragments()}


@dataclass(frozen=True)
class Pieces:
    """The table of finished pieces, which need not exist."""

    uri: str

    def check(self) -> None:
        """Raise UsageError if another client's table has this name."""
        dataset = open_dataset(self.uri)
        if dataset is not None and not dataset.schema.equals(PIECE_SCHEMA, check_metadata=True):
            raise UsageError(
                f"{self.uri} is needed for what a build has finished, and is another table. Rename that one"
            )

    def model(self, recipe: Recipe, files: Files) -> Model | None:
        """The model of a build that did not end, if it suits and most of what it was trained on is still there."""
        for row in reversed(self.rows("model")):
            stored = json.loads(row["description"])
            trained_for, trained_on = Recipe(**stored["recipe"]), files_from(stored["files"])
            known = sum(files.get(fragment) == names for fragment, names in trained_on.items())
            if recipe.suits(trained_for) and 2 * known >= len(trained_on):
                centroids, codebook = unpacked(row["centroids"]), unpacked(row["codebook"])
                assert centroids is not None, "each model has centroids"
                return Model(trained_for, centroids, codebook, stored["rotation"])
        return None

    def segments(self, model: Model, files: Files) -> list[Segment]:
        """The segments that were built with `model` of fragments which are still there, each fragment once."""
        found: list[Segment] = []
        taken: set[int] = set()
        for row in self.rows("segment"):
            stored = json.loads(row["description"])
            segment = Segment(index_from(stored["index"]), files_from(stored["files"]))
            if stored["model"] == model.digest and segment.is_of(files) and taken.isdisjoint(segment.files):
                found.append(segment)
                taken |= segment.files.keys()
        return found

    def keep_model(self, model: Model, files: Files) -> None:
        """Keep a model instead of everything so far: segments of two models can't be merged."""
        self.drop()
        described = {"recipe": dataclasses.asdict(model.recipe), "rotation": model.rotation, "files": files_to(files)}
        self.put("model", described, packed(model.centroids), packed(model.codebook))

    def keep_segment(self, segment: Segment, model: Model) -> None:
        """Keep a segment that was built with `model`."""
        index, files = index_to(segment.index), files_to(segment.files)
        self.put("segment", {"model": model.digest, "index": index, "files": files})

    def put(self, piece: str, described: dict[str, Any], *arrays: bytes | None) -> None:
        """Append a row. The lease lets only one driver write."""
        values = [piece, json.dumps(described), *arrays]
        row = dict(zip(PIECE_SCHEMA.names, values + [None] * (len(PIECE_SCHEMA) - len(values)), strict=True))
        table = ensure_dataset(self.uri, PIECE_SCHEMA)
        fragments = write_fragments(pa.Table.from_pylist([row], PIECE_SCHEMA), table.uri, mode="append")
        append(table, to_json(fragments))

    def rows(self, piece: str) -> list[dict[str, Any]]:
        """The rows of a kind, the earliest first."""
        dataset = open_dataset(self.uri)
        return [] if dataset is None else dataset.to_table(filter=f"piece = {quoted(piece)}").to_pylist()

    def drop(self) -> None:
        """Forget everything."""
        if open_dataset(self.uri) is not None:
            lance.LanceDataset.drop(self.uri, ignore_not_found=True)


def packed(array: pa.Array | None) -> bytes | None:
    """An array as Arrow IPC."""
    if array is None:
        return None
    table, sink = pa.table({"values": array}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpacked(content: bytes | None) -> pa.Array | None:
    """The reverse of `packed`."""
    return None if content is None else pa.ipc.open_stream(content).read_all()["values"].combine_chunks()


def files_to(files: Files) -> dict[str, list[str]]:
    """For JSON."""
    return {str(fragment): list(names) for fragment, names in files.items()}


def files_from(stored: dict[str, list[str]]) -> dict[int, tuple[str, ...]]:
    """The reverse of `files_to`."""
    return {int(fragment): tuple(names) for fragment, names in stored.items()}


def index_to(index: Index) -> dict[str, Any]:
    """Lance's description of an index or a segment, for JSON."""
    kind, details = index.index_details or ("", b"")
    return {
        "uuid": index.uuid,
        "name": index.name,
        "fields": index.fields,
        "dataset_version": index.dataset_version,
        "fragment_ids": sorted(index.fragment_ids),
        "index_version": index.index_version,
        "created_at": index.created_at.isoformat() if index.created_at else None,
        "files": [[file.path, file.size_bytes] for file in index.files or []],
        "details": [kind, base64.b64encode(details).decode()],
    }


def index_from(stored: dict[str, Any]) -> Index:
    """The reverse of `index_to`."""
    kind, details = stored["details"]
    created = stored["created_at"]
    same = ("uuid", "name", "fields", "dataset_version", "index_version")
    return Index(
        **{name: stored[name] for name in same},
        fragment_ids=Bitmap(stored["fragment_ids"]),
        created_at=datetime.fromisoformat(created) if created else None,
        files=[IndexFile(path=path, size_bytes=size) for path, size in stored["files"]],
        index_details=(kind, base64.b64decode(details)),
    )
