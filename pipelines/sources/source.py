"""What every source can do: list its files and units of work on the driver, and read one unit on a worker.

Reading a unit gives the same records however often it is read; with the table as checkpoint, that makes runs resumable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipelines.cluster.child import ProcessLimits
from pipelines.sources.scope import Batches, Scope
from pipelines.sources.units import Unit, UnitT
from pipelines.storage.files import SourceFile


class Source(Protocol[UnitT]):
    """Something that holds records. `UnitT` is the kind of unit that it makes and reads."""

    @property
    def extra(self) -> pa.Schema:
        """The columns beside id, text and image, which pass through to the table."""

    @property
    def has_ids(self) -> bool:
        """True if records have ids; else a record's id is the hash of its content."""

    @property
    def has_uris(self) -> bool:
        """True if records have an image_uri."""

    @property
    def external_images(self) -> bool:
        """True if an image can be given by its URI alone, and has to be fetched."""

    @property
    def exact(self) -> bool:
        """True if a unit's `rows` is the number of its records, False if it is an estimate."""

    @property
    def roles(self) -> dict[str, Any]:
        """The columns that serve as `id`, `text` (several as a list) and `image`; empty where there is no choice.

        `cells` says whether a string in the image column is a list of images.
        """

    def files(self) -> dict[str, SourceFile]:
        """The source files by printable URI, in listing order."""

    def only(self, names: Container[str]) -> Source:
        """The same source with only these files."""

    def without_listing(self) -> Source:
        """What a worker needs to read a unit: the source without anything that grows with the number of its files."""

    def apart(self, limits: ProcessLimits) -> Source:
        """The same source, which parses files in a child process: what ends that is damage of the file."""

    def describe(self) -> list[str]:
        """Lines for the user: what was found, and which column serves as what."""

    def units(self) -> Sequence[Unit]:
        """The units of work, in listing order."""

    def read(self, unit: UnitT) -> Batches:
        """All records of `unit`, in batches of `records.read_schema`, each with the rows that could not be read.

        `unit.scope` is applied by the caller.
        """


def units_in(scope: Scope, source: Source) -> list[Unit]:
    """The units of a source that hold records in scope, each with its part of the scope.

    The first N records are found by reading where the units don't say how many they have.
    """
    units = source.units()
    if scope.limit is None:
        return [dataclasses.replace(unit, scope=scope, rows=math.ceil(unit.rows * scope.share)) for unit in units]
    taken, left = [], scope.limit
    for unit in units:
        if left == 0:
            break
        part = dataclasses.replace(scope, limit=left)
        if source.exact and scope.share == 1:
            rows = min(unit.rows, left)
        else:
            rows = sum(len(records) for records, _ in part.select(source.read(unit)))
        taken.append(dataclasses.replace(unit, rows=rows, scope=dataclasses.replace(scope, limit=rows)))
        left -= rows
    return taken
