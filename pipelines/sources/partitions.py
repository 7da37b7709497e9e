"""Columns that are in the names of folders: `category=shoes/date=2026-11-01/part-0.parquet`, as Hive and Spark write.

The folders below the source's root count, and those above it up to the first whose name has no `=`, so that one
partition of a table has the same columns as all of it. https://duckdb.org/docs/stable/data/partitioning/hive_partitioning
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pipelines.storage.files import Listing, SourceFile
from pipelines.storage.uris import printable

NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Partitions:
    """The columns that a source has beside those of its files: one value of each for all rows of a file."""

    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # by the URI of a file, in order of `schema`

    def beside(self, schema: pa.Schema) -> pa.Schema:
        """The columns of files that have `schema` themselves, with those in the names of folders."""
        return pa.schema([*schema, *(each for each in self.schema if each.name not in schema.names)])

    def of_others(self, like: pa.Schema | None) -> pa.Schema | None:
        """The columns of a table that files may have, although they have no value of them in a sample."""
        if like is None:
            return None
        return pa.schema([each for each in like if each.name not in self.schema.names])

    def without_values(self) -> Partitions:
        """What a worker needs: a unit has the values of its file."""
        return dataclasses.replace(self, values={})

    def added_to(self, table: pa.Table, values: Sequence[Any]) -> pa.Table:
        """`table` with the columns in the names of its folders that it doesn't have itself."""
        for part, value in zip(self.schema, values, strict=True):
            if part.name not in table.column_names:
                table = table.append_column(part.name, pa.repeat(pa.scalar(value, part.type), len(table)))
        return table

    def describe(self, schema: pa.Schema) -> list[str]:
        """Lines for the user: which columns are in the names of folders, and which of them in the files, too."""
        names = ", ".join(f"{each.name} ({each.type})" for each in self.schema)
        both = ", ".join(each.name for each in self.schema if each.name in schema.names)
        lines = [f"columns in the names of folders: {names}"] if names else []
        return [*lines, f"files have {both} themselves, and their values are taken"] if both else lines


NO_PARTITIONS = Partitions()


def hive_partitions(listing: Listing) -> Partitions:
    """The columns in the names of the folders of a listing. All of them are strings."""
    root = base_folder(listing.root)
    found = {file.uri: partition_values(file, root) for file in listing.files}
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = {uri: tuple(values.get(name) for name in names) for uri, values in found.items()}
    return Partitions(pa.schema([(name, pa.string()) for name in names]), rows) if names else NO_PARTITIONS


def base_folder(root: str) -> str:
    """The folder in which the partitioned table begins: `root`, or that of the table of which `root` is a partition."""
    while "=" in PurePosixPath(root).name:
        root = root.rstrip("/").rpartition("/")[0]
    return root


def partition_values(file: SourceFile, root: str) -> dict[str, str | None]:
    """The values in the names of the folders between `root` and a file, by column."""
    folders = printable(file.uri.removeprefix(root)).split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders]
    values = {unquote(name): unquote(value) for name, equals, value in pairs if name and equals}
    return {name: None if value == NULL else value for name, value in values.items()}
