"""A vector column: its name, the encoder that fills it, and how far it does. A table can have several."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import lance
import pyarrow as pa

from pipelines.records import FINGERPRINT_TYPE
from pipelines.tables.transactions import on_latest
from vista_core import EncoderIdentity, EncoderSettings, UsageError
from vista_core.config import is_folder
from vista_core.image import PREPROCESSING_VERSIONS

DEFAULT = "vector"
FLOAT16 = pa.float16()
IDENTITY = b"vista.encoder"  # metadata of the column's field: the identity of its encoder
SINCE = b"vista.since"  # metadata, too: the run that began to replace the column; see `VectorColumn.since`
FILES = b"vista.files"  # the files of its encoder, as JSON; older tables have them in the schema's metadata alone
FILLING = b"vista.filling"  # "1" while a backfill has not covered every row


@dataclass(frozen=True)
class EncoderFiles:
    """Where the files of an encoder are. Stored as JSON, so the names of the fields are fixed."""

    weights: str | None = None
    from_pretrained: str | None = None
    folder: str | None = None  # the model folder; None for one of vista_core.MODELS

    @classmethod
    def of(cls, model: str, weights: str | None, from_pretrained: str | None) -> EncoderFiles:
        """Those that the options of these names say."""
        return cls(weights, from_pretrained, model if is_folder(model) else None)

    @classmethod
    def from_json(cls, text: str) -> EncoderFiles:
        """The inverse of `to_json`."""
        stored = json.loads(text)
        return cls(**{each.name: stored[each.name] for each in dataclasses.fields(cls) if each.name in stored})

    def to_json(self) -> str:
        """The JSON that is stored with a column."""
        stored = dataclasses.asdict(self)
        if self.folder is None:  # as older code made it
            del stored["folder"]
        return json.dumps(stored)

    def model(self, name: str) -> str:
        """What --model takes for the model of this name: its folder, if it has one."""
        return self.folder or name

    def why_lost(self, column: str, model: str, error: Exception) -> str:
        """What to do if the encoder of a column can't be had from these files."""
        if self.folder is not None:
            return (
                f"the encoder of the column {column}, {model}, can't be had from its model folder, {self.folder}: "
                f"{error}. Bring the folder back there, or name where it is now: --model FOLDER"
            )
        where = " and ".join(each for each in (self.weights, self.from_pretrained) if each)
        return (
            f"the encoder of the column {column} can't be had: {error}. Put the files of {model} where they were "
            f"({where or 'the Hugging Face hub, or its cache here'})"
        )


@dataclass(frozen=True)
class VectorColumn:
    """One vector space: all vectors of a column are of one encoder."""

    name: str
    identity: EncoderIdentity
    since: str = ""  # rows of runs before this one have another encoder's vectors; empty if there are none
    values: pa.DataType = FLOAT16  # another client may have cast the column to wider floats
    # Wherever its files are, it is the same encoder.
    files: EncoderFiles | None = dataclasses.field(default=None, compare=False)  # None: as the table's `Origin` says
    filling: bool = False  # True while a backfill has not covered every row

    @classmethod
    def of(cls, schema: pa.Schema, name: str = DEFAULT) -> VectorColumn:
        """The column as a table's schema describes it. Raises UsageError if there is no such vector column."""
        if name not in schema.names:
            raise UsageError(f"the table has no vector column `{name}`")
        metadata = schema.field(name).metadata or {}
        if IDENTITY not in metadata:
            raise UsageError(f"the column `{name}` does not name the encoder of its vectors, so it is not vista's")
        column = cls(
            name,
            EncoderIdentity.from_json(metadata[IDENTITY].decode()),
            metadata.get(SINCE, b"").decode(),
            files=EncoderFiles.from_json(metadata[FILES].decode()) if FILES in metadata else None,
            filling=FILLING in metadata,
        )
        return column.as_in(schema)

    def as_in(self, schema: pa.Schema) -> VectorColumn:
        """The column with the floats that a table's schema has for it. Raises UsageError if it has no such vectors."""
        column, kind = self.with_floats_of(schema), schema.field(self.name).type
        if column.type != kind:
            raise UsageError(
                f"another client made the column `{self.name}` {kind} instead of {self.type}. Cast it back with "
                "`alter_columns`, or replace it with --reembed"
            )
        return column

    def with_floats_of(self, schema: pa.Schema) -> VectorColumn:
        """The column with the floats that a schema has for vectors of whatever dimension under its name, if it has."""
        kind = schema.field(self.name).type if self.name in schema.names else self.type
        vectors = pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)
        return dataclasses.replace(self, values=kind.value_type) if vectors else self

    @property
    def fingerprint(self) -> str:
        """Name of the column with the fingerprints of the content that the vectors were made of."""
        return fingerprint_column(self.name)

    @property
    def type(self) -> pa.DataType:
        """fixed_size_list<float16>[D], or of wider floats."""
        return pa.list_(self.values, self.identity.dimension)

    @property
    def field(self) -> pa.Field:
        """The column's field in a table's schema, with the metadata that `of` reads."""
        metadata = {IDENTITY: self.identity.to_json().encode()}
        if self.since:
            metadata[SINCE] = self.since.encode()
        if self.files is not None:
            metadata[FILES] = self.files.to_json().encode()
        if self.filling:
            metadata[FILLING] = b"1"
        return pa.field(self.name, self.type, metadata=metadata)

    @property
    def field_update(self) -> dict[str, dict[str, str | None]]:
        """What Lance's `update_field_metadata` takes to give a column that is there this metadata, and no other of it.

        It keeps keys that it isn't told of, so those that this column hasn't are named, too.
        """
        metadata = self.field.metadata
        values = {key: metadata.get(key) for key in (IDENTITY, SINCE, FILES, FILLING)}
        return {self.name: {key.decode(): None if value is None else value.decode() for key, value in values.items()}}

    @property
    def fingerprint_field(self) -> pa.Field:
        """The fingerprint column's field in a table's schema."""
        return pa.field(self.fingerprint, FINGERPRINT_TYPE)

    def replaced_since(self, run: str) -> VectorColumn:
        """The same column while `run` replaces its vectors: rows of earlier runs have another encoder's."""
        return dataclasses.replace(self, since=run)

    def settings(self, settings: EncoderSettings) -> EncoderSettings:
        """`settings` with the column's precision, image preprocessing and limits on text length."""
        version = self.identity.preprocessing
        return dataclasses.replace(
            settings,
            dtype=self.identity.dtype,
            alpha=self.identity.alpha,
            resize=next((name for name, known in PREPROCESSING_VERSIONS.items() if known == version), "fast"),
            max_tokens=max(self.identity.max_tokens),
        )


def since(schema: pa.Schema, name: str) -> str:
    """`VectorColumn.since` of a column; empty if the schema has no such column, or a cast dropped its metadata."""
    metadata = schema.field(name).metadata if name in schema.names else None
    return (metadata or {}).get(SINCE, b"").decode()


def completed(table: lance.LanceDataset, name: str) -> lance.LanceDataset:
    """The latest version of the table, in which the vector column `name` is marked as complete."""
    return on_latest(table.uri, lambda latest: latest.update_field_metadata({name: {FILLING.decode(): None}}))


def why_incomplete(name: str) -> str:
    """The fault of a column that is being filled, and what finishes it."""
    return f"the column `{name}` is incomplete, since a backfill has not covered all rows: `vista backfill` finishes it"


def is_vector(kind: pa.DataType) -> bool:
    """True for vectors of floats, all of one length."""
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def vector_columns(schema: pa.Schema) -> list[str]:
    """The names of all columns of vectors, whoever made them."""
    return [each.name for each in schema if is_vector(each.type)]


def names_encoder(field: pa.Field) -> bool:
    """True if a column's field names the encoder of its vectors."""
    return IDENTITY in (field.metadata or {})


def fingerprint_column(name: str) -> str:
    """Name of the fingerprint column that belongs to the vector column `name`."""
    return f"{name}_fingerprint"
