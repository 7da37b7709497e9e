"""A vector column: its name, the encoder that fills it, and since which run. A table can have several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyarrow as pa

from pipelines.records import FINGERPRINT_TYPE
from vista_core import EncoderIdentity, EncoderSettings, UsageError
from vista_core.image import PREPROCESSING_VERSIONS

DEFAULT = "vector"
IDENTITY = b"vista.encoder"  # metadata of the column's field: the identity of its encoder
SINCE = b"vista.since"  # metadata, too: the run that began to replace the column; see `VectorColumn.since`


@dataclass(frozen=True)
class VectorColumn:
    """One vector space: all vectors of a column are of one encoder."""

    name: str
    identity: EncoderIdentity
    since: str = ""  # rows of runs before this one have another encoder's vectors; empty if there are none

    @classmethod
    def of(cls, schema: pa.Schema, name: str = DEFAULT) -> VectorColumn:
        """The column as a table's schema describes it. Raises UsageError if there is no such vector column."""
        if name not in schema.names:
            raise UsageError(f"the table has no vector column `{name}`")
        metadata = schema.field(name).metadata or {}
        if IDENTITY not in metadata:
            raise UsageError(f"the column `{name}` does not name the encoder of its vectors, so it is not vista's")
        return cls(name, EncoderIdentity.from_json(metadata[IDENTITY].decode()), metadata.get(SINCE, b"").decode())

    @property
    def fingerprint(self) -> str:
        """Name of the column with the fingerprints of the content that the vectors were made of."""
        return fingerprint_column(self.name)

    @property
    def type(self) -> pa.DataType:
        """fixed_size_list<float16>[D]."""
        return pa.list_(pa.float16(), self.identity.dimension)

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
    """`VectorColumn.since` of a column; empty if the schema has no such column, as while it is being replaced."""
    return VectorColumn.of(schema, name).since if name in schema.names else ""


def fingerprint_column(name: str) -> str:
    """Name of the fingerprint column that belongs to the vector column `name`."""
    return f"{name}_fingerprint"
