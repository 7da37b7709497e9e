"""The indexes beside that on vectors: full text on the text column, and a BTREE on the id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import lance
import pyarrow as pa

from pipelines.records import ID, TEXT
from pipelines.sources.roles import ID_NAMES, TEXT_NAMES, usual
from pipelines.sources.types import is_text
from pipelines.tables.indexes import cover_all_rows, index_names, index_on
from pipelines.tables.upkeep import LIMITS

TEXT_MEMORY_MB: Final = 2_048  # of the build of a full-text index; by default Lance takes as much for each core


@dataclass(frozen=True)
class ScalarIndex:
    """An index on a column of texts or ids."""

    column: str
    kind: str  # INVERTED (full text) or BTREE

    @property
    def name(self) -> str:
        """The name that other clients give such an index, too."""
        return index_on(self.column)

    def __str__(self) -> str:
        """For people."""
        return f"{'full text' if self.kind == 'INVERTED' else self.kind} on `{self.column}`"


def scalar_indexes(schema: pa.Schema) -> list[ScalarIndex]:
    """Those that a table should have: on the columns with the usual names, the most likely ones."""
    text, key = usual(schema, (TEXT, *TEXT_NAMES), is_text), usual(schema, (ID, *ID_NAMES), is_key)
    return [
        *([ScalarIndex(text, "INVERTED")] if text else []),
        *([ScalarIndex(key, "BTREE")] if key else []),
    ]


def is_key(kind: pa.DataType) -> bool:
    """True for ids that a BTREE takes."""
    return bool(is_text(kind) or pa.types.is_integer(kind))


def is_there(table: lance.LanceDataset, wanted: ScalarIndex) -> bool:
    """True if the table has such an index on the column, whoever built it."""
    kinds = {"INVERTED": "Inverted", "BTREE": "BTree"}
    return any(
        index.field_names == [wanted.column] and index.index_type == kinds[wanted.kind]
        for index in table.describe_indices()
    )


def build_scalar_index(uri: str, wanted: ScalarIndex) -> None:
    """Build it on the latest version of the table, and commit it. Runs on a worker."""
    table = lance.dataset(uri)
    if wanted.kind == "INVERTED":
        limit: Any = TEXT_MEMORY_MB
        table.create_scalar_index(wanted.column, "INVERTED", wanted.name, with_position=False, memory_limit=limit)
    else:
        table.create_scalar_index(wanted.column, "BTREE", wanted.name)


def cover_rows(uri: str) -> None:
    """Make each index of the table cover every row. Runs on a worker."""
    for name in index_names(lance.dataset(uri)):
        cover_all_rows(lance.dataset(uri), name, LIMITS.index_segments)
