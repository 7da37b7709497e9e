"""Sources: each lists its units of work on the driver and reads one unit on a worker.

A unit is read the same way however often it is read: that, and the table, is what makes a run resumable.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Protocol

import pyarrow as pa

from pipelines.records import Reject
from pipelines.sources.objects import SourceObject


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
    def elsewhere(self) -> bool:
        """Whether a record's image may be named only, by image_uri, and has to be fetched."""

    @property
    def exact(self) -> bool:
        """Whether a unit's `rows` are their number, or a guess at it."""

    @property
    def roles(self) -> dict[str, str | None]:
        """The columns taken for `id`, `text` and `image`; empty where there is no choice of them."""

    def objects(self) -> dict[str, SourceObject]:
        """What is listed by its name (`objects.printable`), in listing order."""

    def only(self, names: Container[str]) -> Source:
        """The same source, of which only these objects are read."""

    def without_listing(self) -> Source:
        """What a worker needs to read a unit: the same, less all that grows with the source."""

    def describe(self) -> list[str]:
        """Lines for the user: what was found, and which column is taken for what."""

    def units(self) -> list[dict]:
        """The units of work, in listing order: JSON values with `rows`."""

    def read(self, unit: dict) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The records of `unit` in batches (`records.read_schema`), and which of their rows could not be read."""
