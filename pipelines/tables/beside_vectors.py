"""Whether two versions of a table differ in their vector columns alone.

Such versions need no gate: their rows are those that were judged, so a command that adds a column of vectors, drops one
or makes one the default can publish what it made.
"""

from __future__ import annotations

from typing import Any

import lance
import pyarrow as pa

from pipelines.tables.dataset import published
from pipelines.tables.vector_column import fingerprint_column, since, vector_columns
from vista_core import UsageError


def published_alike(table: lance.LanceDataset) -> lance.LanceDataset | None:
    """The version that is published; None if none is.

    Raises UsageError, with the cure, unless this version of the table differs from it in vector columns alone, and
    holds no column that is only in part of the encoder that it names.
    """
    now = published(table)
    if now is None:
        return None
    before = lance.dataset(table.uri, version=now)
    for name in vector_columns(table.schema):
        if since(table.schema, name) not in ("", since(before.schema, name)):
            raise UsageError(
                f"{table.uri}: a run with --reembed began to replace the column `{name}`, and did not publish it. Run "
                "that command again until it publishes; then run this one"
            )
    if not same_beside_vectors(before, table):
        raise UsageError(
            f"{table.uri}: its latest version has other rows than version {now}, which is published, and no gate has "
            "judged them. `vista embed` publishes them if they pass; then run this command again"
        )
    return before


def same_beside_vectors(one: lance.LanceDataset, other: lance.LanceDataset) -> bool:
    """True if two versions have the same rows, columns and files, apart from vectors and their fingerprints."""
    vectors = {*vector_columns(one.schema), *vector_columns(other.schema)}
    names = vectors | {fingerprint_column(name) for name in vectors}
    columns = [pa.schema([each for each in table.schema if each.name not in names]) for table in (one, other)]
    return columns[0].equals(columns[1], check_metadata=True) and files(one, names) == files(other, names)


def files(table: lance.LanceDataset, without: set[str]) -> list[tuple[Any, ...]]:
    """The fragments of a version: their rows, those that are deleted, and the file of each column."""
    fields = {number for each in table.lance_schema.fields() if each.name() not in without for number in numbers(each)}
    found = []
    for each in table.get_fragments():
        stored = each.metadata.to_json()
        places = {number: file["path"] for file in stored["files"] for number in file["fields"] if number in fields}
        rows = stored["physical_rows"], stored["deletion_file"], stored.get("overlays")
        found.append((stored["id"], *rows, places))
    return found


def numbers(field: Any) -> list[int]:
    """The numbers by which Lance knows a column in its files, and what is nested in it."""
    return [field.id(), *(number for child in field.children() for number in numbers(child))]
