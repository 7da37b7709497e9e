"""Sources: each lists its units of work on the driver and reads one unit on a worker.

A unit is read the same way however often it is read: that, and the table, is what makes a run resumable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa

from pipelines.records import Reject
from pipelines.sources.image_folder import IMAGE_SUFFIXES, ImageFolder
from pipelines.sources.objects import Listing, list_objects
from pipelines.sources.parquet import Parquet
from vista_core import UsageError


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; None is to be found by the source."""

    id: str | None = None
    text: str | None = None
    image: str | None = None


class Source(Protocol):
    """Something that holds records: lists units, reads one."""

    @property
    def extra(self) -> pa.Schema:
        """The columns beside id, text and image, which pass through to the table."""

    @property
    def has_ids(self) -> bool:
        """Whether records have ids of their own; else a record's id is the hash of its content."""

    @property
    def has_uris(self) -> bool:
        """Whether records have an image_uri."""

    @property
    def roles(self) -> dict[str, str | None]:
        """The columns taken for `id`, `text` and `image`; empty where there is no choice of them."""

    def without_listing(self) -> Source:
        """What a worker needs to read a unit: the same, less all that grows with the source."""

    def describe(self) -> list[str]:
        """Lines for the user: what was found, and which column is taken for what."""

    def units(self) -> list[dict]:
        """The units of work, in listing order: JSON values, with `rows` where their number is known."""

    def read(self, unit: dict) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The records of `unit` in batches (`records.read_schema`), and which of their rows could not be read."""


def open_source(uri: str, columns: Columns) -> Source:
    """The source at `uri`, its kind found by the names of what is there. Raises UsageError if nothing is."""
    listing = list_objects(uri)
    suffixes = {PurePosixPath(item.uri).suffix.lower() for item in listing.objects}
    if suffixes & {".parquet", ".pq"}:
        return Parquet.open(listing.only({".parquet", ".pq"}), columns)
    if suffixes & IMAGE_SUFFIXES:
        return ImageFolder.open(listing, columns)
    seen = ", ".join(sorted(suffix or "no suffix" for suffix in suffixes)[:8]) or "no files"
    raise UsageError(
        f"--source {uri}: no Parquet files and no images there, only: {seen}. "
        "Name the files with a glob, such as s3://bucket/catalog/*.parquet"
    )


__all__ = ["Columns", "Listing", "Source", "open_source"]
