"""The job's own columns, which other clients may have dropped, renamed or cast: what can't be worked on is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import lance
import pyarrow as pa

from pipelines.records import FINGERPRINT_TYPE, ID, IMAGE, IMAGE_URI, MODALITY, OBJECT, RUN, TEXT, TRUNCATED
from pipelines.tables.default_column import default_column
from pipelines.tables.vector_column import VectorColumn, fingerprint_column, names_encoder
from vista_core import UsageError

NEEDED: Final = {ID: pa.string(), OBJECT: pa.string(), RUN: pa.string()}  # and the default column's fingerprints
COMPARED_ROWS: Final = 1_000
EARLIER_VERSIONS: Final = 1_000  # that are looked at
# A table may lack these: then they are not written.
WRITTEN: Final = {
    TEXT: pa.string(),
    IMAGE_URI: pa.string(),
    IMAGE: pa.large_binary(),
    MODALITY: pa.string(),
    TRUNCATED: pa.bool_(),
}


def check_own_columns(table: lance.LanceDataset) -> None:
    """Raise UsageError, with the cure, if the table lacks a column that each run needs, or one has another type."""
    needed = NEEDED | {fingerprint_column(default_column(table)): FINGERPRINT_TYPE}
    for name, kind in (needed | WRITTEN).items():
        if name not in table.schema.names:
            if name in needed:
                raise UsageError(why_missing(table, name))
        elif table.schema.field(name).type != kind:
            raise UsageError(
                f"{table.uri}: another client made column `{name}` {table.schema.field(name).type} instead of {kind}. "
                f"Cast it back: {opened(table)}.alter_columns({{'path': '{name}', 'data_type': {in_python(kind)}}})"
            )


def why_missing(table: lance.LanceDataset, name: str) -> str:
    """What another client did with a column that is not there, and how to get it back."""
    before = next((each for each in earlier_versions(table) if name in each.schema.names), None)
    if before is None:
        return f"{table.uri}: another client dropped column `{name}`. Choose another --table"
    [field] = [each.id() for each in before.lance_schema.fields() if each.name() == name]
    renamed = [each.name() for each in table.lance_schema.fields() if each.id() == field]  # a field keeps its id
    if renamed:
        return (
            f"{table.uri}: another client renamed column `{name}` to `{renamed[0]}`. Rename it back: "
            f"{opened(table)}.alter_columns({{'path': '{renamed[0]}', 'name': '{name}'}})"
        )
    return (
        f"{table.uri}: another client dropped column `{name}`, which version {before.version} has. Go back to it: "
        f"{opened(table, before.version)}.restore(). What was written since is then only in the versions in between"
    )


def vector_column(table: lance.LanceDataset, name: str) -> VectorColumn:
    """A vector column. Raises UsageError if there is none, or if nothing tells its encoder.

    A cast by another client drops the name of the encoder. Then the version before the cast tells it, if the vectors
    are the same.
    """
    if name not in table.schema.names:
        raise UsageError(f"{table.uri}: the table has no vector column `{name}`")
    newer = table
    for version in itertools.chain([table], earlier_versions(table)):
        if name not in version.schema.names:
            break
        if names_encoder(version.schema.field(name)):
            column = VectorColumn.of(version.schema, name).as_in(table.schema)
            if newer is version or same_vectors(version, newer, column):
                return column
            break
        newer = version
    raise UsageError(
        f"{table.uri}: the column `{name}` does not name the encoder of its vectors, so another client replaced it. "
        "Replace the whole column with --reembed, or choose another --table"
    )


def same_vectors(one: lance.LanceDataset, other: lance.LanceDataset, column: VectorColumn) -> bool:
    """True if the first vectors of two versions are the same as float16."""
    kind = pa.list_(pa.float16(), column.identity.dimension)
    first, second = (each.to_table([column.name], limit=COMPARED_ROWS)[column.name].cast(kind) for each in (one, other))
    return first.to_pylist() == second.to_pylist()


def earlier_versions(table: lance.LanceDataset) -> Iterator[lance.LanceDataset]:
    """The versions before this one, the latest first."""
    earlier = [each["version"] for each in table.versions() if each["version"] < table.version]
    for version in reversed(earlier[-EARLIER_VERSIONS:]):
        yield lance.dataset(table.uri, version=version)


def opened(table: lance.LanceDataset, version: int | None = None) -> str:
    """Python that opens the table."""
    return f"lance.dataset('{table.uri}'{'' if version is None else f', version={version}'})"


def in_python(kind: pa.DataType) -> str:
    """Python that makes one of the types of the job's own columns."""
    return f"pa.{'bool_' if pa.types.is_boolean(kind) else kind}()"


def allow_nulls(table: lance.LanceDataset) -> lance.LanceDataset:
    """Make every column nullable, as the job makes them.

    Another client's may not be: Lance adds a column of a constant as one without nulls, and no new row has a value for
    it.
    """
    strict: list[Any] = [{"path": field.name, "nullable": True} for field in table.schema if not field.nullable]
    if strict:
        table.alter_columns(*strict)
        table = lance.dataset(table.uri)
    return table
