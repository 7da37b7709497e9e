"""A vector column: its name, the encoder that fills it, and since which run. A table can have several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyarrow as pa

from pipelines.records import FINGERPRINT_TYPE
from vista_core import EncoderIdentity, EncoderSettings, UsageError
from vista_core.image import PREPROCESSING_VERSIONS

DEFAULT = "vector"
FLOAT16 = pa.float16()
IDENTITY = b"vista.encoder"  # metadata of the column's field: the identity of its encoder
SINCE = b"vista.since"  # metadata, too: the run that began to replace the column; see `VectorColumn.since`


@dataclass(frozen=True)
class VectorColumn:
    """One vector space: all vectors of a column are of one encoder."""

    name: str
    identity: EncoderIdentity
    since: str = ""  # rows of runs before this one have another encoder's vectors; empty if there are none
    values: pa.DataType = FLOAT16  # another client may have cast the column to wider floats

    @classmethod
    def of(cls, schema: pa.Schema, name: str = DEFAULT) -> VectorColumn:
        """The column as a table's schema describes it. Raises UsageError if there is no such vector column."""
        if name not in schema.names:
            raise UsageError(f"the table has no vector column `{name}`")
        metadata = schema.field(name).metadata or {}
        if IDENTITY not in metadata:
            raise UsageError(f"the column `{name}` does not name the encoder of its vectors, so it is not vista's")
        identity = EncoderIdentity.from_json(metadata[IDENTITY].decode())
        return cls(name, identity, metadata.get(SINCE, b"").decode()).as_in(schema)

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
        return pa.field(self.name, self.type, metadata=metadata)

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


def names_encoder(field: pa.Field) -> bool:
    """True if a column's field names the encoder of its vectors."""
    return IDENTITY in (field.metadata or {})


def fingerprint_column(name: str) -> str:
    """Name of the fingerprint column that belongs to the vector column `name`."""
    return f"{name}_fingerprint"
