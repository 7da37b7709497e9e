"""The origin of a table: the encoder's files and how its source is read, stored in the schema's metadata."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import lance
import pyarrow as pa

from pipelines.records import OBJECT, RUN
from pipelines.tables.default_column import default_column
from pipelines.tables.own_columns import earlier_versions, opened, vector_column, why_missing
from pipelines.tables.vector_column import DEFAULT, EncoderFiles, VectorColumn, names_encoder
from vista_core import UsageError

MARKER = b"vista.table"  # metadata of the schema of every table that vista made
MADE_FROM = b"vista.made_from"  # metadata, too: the origin as JSON


@dataclass(frozen=True)
class Origin:
    """The run that made the table: later runs take from it how the source is read.

    Searches take the encoder's files from it, for a column that doesn't name its own.

    Stored as JSON, so the names of the fields are fixed.
    """

    model: str
    weights: str | None = None
    from_pretrained: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)  # the source's columns for `id`, `text` and `image`
    images: str = "each"  # how a list of images is read: a row for `each`, or for the `first` only
    image_identity: str = "version"  # when an external image counts as changed
    folder: str | None = None  # the model folder; None for one of vista_core.MODELS

    @classmethod
    def of(cls, dataset: lance.LanceDataset) -> Origin:
        """The origin that is stored with a table. Raises UsageError if vista didn't make the table."""
        metadata = dataset.schema.metadata or {}
        if MARKER not in metadata:
            raise UsageError(why_not_ours(dataset))
        stored = json.loads(metadata[MADE_FROM])
        return cls(**{each.name: stored[each.name] for each in dataclasses.fields(cls) if each.name in stored})

    @property
    def files(self) -> EncoderFiles:
        """Where the files of its encoder are."""
        return EncoderFiles(self.weights, self.from_pretrained, self.folder)

    def of_encoder(self, model: str, files: EncoderFiles) -> Origin:
        """The same origin with another encoder."""
        return dataclasses.replace(self, model=model, **dataclasses.asdict(files))

    @property
    def reading(self) -> dict[str, Any]:
        """How the source is read. If it changes, records get other ids or fingerprints."""
        return {"columns": self.columns, "images": self.images, "image_identity": self.image_identity}

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The metadata of a table's schema that `of` reads."""
        stored = dataclasses.asdict(self)
        if self.folder is None:  # as older code made it
            del stored["folder"]
        return {MARKER: b"1", MADE_FROM: json.dumps(stored).encode()}


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
    if name not in dataset.schema.names and name in (DEFAULT, default_column(dataset)):
        raise UsageError(
            f"{why_missing(dataset, name)}. If a run with --reembed ended while it replaced the column `{name}`, run "
            "that command again"
        )
    return vector_column(dataset, name)


def encoder_files(dataset: lance.LanceDataset, column: VectorColumn) -> EncoderFiles:
    """Where the files of a column's encoder are: as the column says or, in older tables, the schema."""
    if column.files is not None:
        return column.files
    if MADE_FROM in (dataset.schema.metadata or {}):
        made_by = Origin.of(dataset)
        if made_by.model == column.identity.model:
            return made_by.files
    return EncoderFiles()


def follow_default_column(uri: str) -> lance.LanceDataset:
    """The latest version of the table, whose origin names the default column's encoder if it named one that is gone.

    Raises UsageError if the default column doesn't name its encoder.
    """
    latest = lance.dataset(uri)
    if MADE_FROM not in (latest.schema.metadata or {}):
        return latest
    made_by, schema = Origin.of(latest), latest.schema
    columns = [VectorColumn.of(schema, each.name) for each in schema if names_encoder(each)]
    if (made_by.model, made_by.files) in [(each.identity.model, encoder_files(latest, each)) for each in columns]:
        return latest
    column = VectorColumn.of(schema, default_column(latest))
    now = made_by.of_encoder(column.identity.model, encoder_files(latest, column))
    latest.update_schema_metadata({MADE_FROM.decode(): now.metadata[MADE_FROM].decode()})
    return latest


def with_files(table: lance.LanceDataset, column: VectorColumn) -> lance.LanceDataset:
    """The table whose column names where the files of its encoder are now, if `column` says that they were moved."""
    if column.files is None:
        return table
    stored = VectorColumn.of(table.schema, column.name)
    if column.files == encoder_files(table, stored):
        return table
    table.update_field_metadata(dataclasses.replace(stored, files=column.files).field_update)
    return lance.dataset(table.uri)
