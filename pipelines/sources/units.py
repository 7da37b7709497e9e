"""Units of work: the part of a source that one task reads. A unit is the same in each run over the same files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.sources.scope import WHOLE, Scope


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one task reads. Each kind of source has a subclass with what it needs to find its part again."""

    uris: tuple[str, ...]  # the source files that it reads records from
    rows: int  # how many records it has, or an estimate where the source is not `exact`
    scope: Scope = WHOLE  # which of its records are read; applied by the caller of `Source.read`


@dataclass(frozen=True, kw_only=True)
class FilePart(Unit):
    """A part of one file with rows, or all of it."""

    version: str  # which the file must still have when it is read
    first_row: int = 0  # its position in the file: a number or, in text files, the byte at which the row begins
    error: str = ""  # why nothing of it can be read, if so
    partition: tuple[Any, ...] = ()  # the values of the columns in the names of its folders

    @property
    def uri(self) -> str:
        """The URI of the file."""
        return self.uris[0]


UnitT = TypeVar("UnitT", bound=Unit, contravariant=True)
FilePartT = TypeVar("FilePartT", bound=FilePart, contravariant=True)
