"""The origin of a table: the encoder's files and how its source is read, stored in the schema's metadata."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import lance
import pyarrow as pa

from pipelines.records import OBJECT, RUN
from pipelines.tables.own_columns import earlier_versions, opened, vector_column, why_missing
from pipelines.tables.vector_column import DEFAULT, VectorColumn
from vista_core import UsageError

MARKER = b"vista.table"  # metadata of the schema of every table that vista made
MADE_FROM = b"vista.made_from"  # metadata, too: the origin as JSON


@dataclass(frozen=True)
class Origin:
    """The run that made the table: searches take the encoder's files from it, later runs how the source is read.

    Stored as JSON, so the names of the fields are fixed.
    """

    model: str
    weights: str | None = None
    from_pretrained: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)  # the source's columns for `id`, `text` and `image`
    images: str = "each"  # how a list of images is read: a row for `each`, or for the `first` only
    image_identity: str = "version"  # when an external image counts as changed

    @classmethod
    def of(cls, dataset: lance.LanceDataset) -> Origin:
        """The origin that is stored with a table. Raises UsageError if vista didn't make the table."""
        metadata = dataset.schema.metadata or {}
        if MARKER not in metadata:
            raise UsageError(why_not_ours(dataset))
        stored = json.loads(metadata[MADE_FROM])
        return cls(**{each.name: stored[each.name] for each in dataclasses.fields(cls) if each.name in stored})

    @property
    def reading(self) -> dict[str, Any]:
        """How the source is read. If it changes, records get other ids or fingerprints."""
        return {"columns": self.columns, "images": self.images, "image_identity": self.image_identity}

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The metadata of a table's schema that `of` reads."""
        return {MARKER: b"1", MADE_FROM: json.dumps(dataclasses.asdict(self)).encode()}


def why_not_ours(table: lance.LanceDataset) -> str:
    """Why a table isn't vista's: another client made it, or removed what vista knows it by."""
    before = next((each for each in earlier_versions(table) if MARKER in (each.schema.metadata or {})), None)
    if before is None or not {OBJECT, RUN} <= set(table.schema.names):
        return f"{table.uri} was not made by this job. Choose another --table"
    return (
        f"{table.uri}: another client removed the metadata of the schema by which this job knows its table. Version "
        f"{before.version} has it: {opened(table)}.update_schema_metadata("
        f"{{k.decode(): v.decode() for k, v in {opened(table, before.version)}.schema.metadata.items()}})"
    )


def marked(schema: pa.Schema, origin: Origin) -> pa.Schema:
    """`schema` with the metadata of a table that vista made."""
    return schema.with_metadata(origin.metadata)


def vista_column(dataset: lance.LanceDataset, name: str = DEFAULT) -> VectorColumn:
    """A vector column of a table that vista made.

    Raises UsageError if vista didn't make the table, or if it has no such column.
    """
    Origin.of(dataset)
    if name == DEFAULT and name not in dataset.schema.names:
        raise UsageError(
            f"{why_missing(dataset, name)}. If a run with --reembed ended while it replaced the column `{name}`, run "
            "that command again"
        )
    return vector_column(dataset, name)
