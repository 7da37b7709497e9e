"""The default vector column of a table: the one that is searched unless another one is named.

It is a key of the table's config, so a version of the table pins it with its rows, vectors and indexes: readers see the
old default or the new one, each with the version that it belongs to. `vista switch` sets it.
"""

from __future__ import annotations

import lance

from pipelines.tables.transactions import set_config
from pipelines.tables.vector_column import DEFAULT, vector_columns

KEY = "vista.default_column"


def default_column(dataset: lance.LanceDataset) -> str:
    """The name of the default column in this version of the table, which may lack it."""
    return dataset.config().get(KEY) or DEFAULT


def searched_column(dataset: lance.LanceDataset) -> str | None:
    """The column that is searched unless another one is named: the default or, without it, the only one of vectors."""
    default, found = default_column(dataset), vector_columns(dataset.schema)
    if default in found:
        return default
    return found[0] if len(found) == 1 else None


def set_default_column(table: lance.LanceDataset, name: str) -> lance.LanceDataset:
    """The table with another default column.

    Raises CommitConflictError if another run changed it since `table.version`.
    """
    return set_config(table, {KEY: name})
