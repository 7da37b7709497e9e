"""What a file format has to do, and what formats with a listing of files have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import pyarrow as pa

from pipelines.sources.columns import Batch
from pipelines.sources.limits import Limits
from pipelines.sources.units import FilePart, FilePartT
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile
from pipelines.storage.local import UnreadableError
from vista_core import UsageError

FILES_TRIED = 8
FILE_THREADS = 16

Found = TypeVar("Found")
Part = TypeVar("Part", bound=FilePart)


class Format(Protocol[FilePartT]):
    """A way to store rows with named columns. `FilePartT` is the kind of unit that it makes and reads."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the source, taken from its first readable file."""

    @property
    def exact(self) -> bool:
        """True if a unit's `rows` is the number of its records, False if it is an estimate."""

    @property
    def limits(self) -> Limits:
        """How much is read at once."""

    def files(self) -> dict[str, SourceFile]:
        """The source files by printable URI, in listing order."""

    def only(self, names: Container[str]) -> Self:
        """The same with only these files."""

    def without_listing(self) -> Self:
        """What a worker needs to read a unit: the same without anything that grows with the number of files."""

    def describe(self) -> str:
        """What was found: how many files of which kind and size."""

    def units(self) -> Sequence[FilePart]:
        """The units of work, in listing order."""

    def batches(self, unit: FilePartT, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of a unit, as far as its file has them, in batches within the limits.

        Never called with a unit that has an `error`. Raises one of errors.READ_ERRORS at damage, after it yielded
        everything before the damage.
        """


@dataclass(frozen=True)
class FileFormat:
    """A format whose source is a listing of files."""

    listing: Listing
    limits: Limits
    schema: pa.Schema

    def files(self) -> dict[str, SourceFile]:
        """The files of the listing."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> Self:
        """The same with only these files."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> Self:
        """The same with an empty listing."""
        return dataclasses.replace(self, listing=self.listing.of(()))

    def summary(self, kind: str) -> str:
        """How many files there are, and their size."""
        return f"{len(self.listing.files):,} {kind}(s), {self.listing.megabytes:,.2f} MB"


def units_of(listing: Listing, file_units: Callable[[SourceFile], list[Part]]) -> list[FilePart]:
    """The units of all files, in listing order, looking into several files at once.

    A file that can't be read is one unit with the error.
    """

    def units(file: SourceFile) -> list[FilePart]:
        try:
            return [*file_units(file)]
        except UnreadableError as error:
            return [unreadable_part(file, str(error))]

    with ThreadPoolExecutor(FILE_THREADS) as pool:
        return [unit for units in pool.map(units, listing.files) for unit in units]


def unreadable_part(file: SourceFile, error: str) -> FilePart:
    """The unit of a file of which nothing can be read: one reject."""
    return FilePart(uris=(file.uri,), version=file.version, rows=1, error=error)


def checked(schema: pa.Schema, limits: Limits) -> pa.Schema:
    """`schema`, unless it has too many columns or too deep ones. Raises pa.ArrowInvalid.

    Each row has a cell in each column, and types are compared and converted by recursion. Raises UnicodeDecodeError for
    a name that is not UTF-8, which pyarrow finds out when it is first asked for it.
    """
    columns, level = 0, [field.type for field in schema if field.name is not None]
    for _ in range(limits.depth + 1):
        columns += sum(not kind.num_fields for kind in level)
        if columns > limits.columns or len(level) > limits.columns:
            raise pa.ArrowInvalid(
                f"it has {len(schema):,} columns, with their fields over {limits.columns:,}, the limit"
            )
        parts = [kind.field(part) for kind in level for part in range(kind.num_fields)]
        level = [part.type for part in parts if part.name is not None]
    if level:
        raise pa.ArrowInvalid(f"a column is nested more than {limits.depth} deep, which is the limit")
    return schema


def first_readable(listing: Listing, kind: str, look: Callable[[SourceFile], Found], otherwise: str = "") -> Found:
    """What `look` finds in the first of FILES_TRIED files that is not damaged.

    Raises UsageError if all of them are damaged, or `otherwise` if there are none.
    """
    errors = []
    for file in listing.files[:FILES_TRIED]:
        try:
            return look(file)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            errors.append(f"{file.uri}: {said(error)}")
    raise UsageError(f"--source {listing.uri}: no readable {kind}: {errors[0] if errors else otherwise}")


def sampled(files: Sequence[SourceFile], most: int) -> list[SourceFile]:
    """At most `most` of the files, evenly spread, with the first and the last of them, in their order."""
    if len(files) <= most:
        return list(files)
    return [files[number * (len(files) - 1) // max(1, most - 1)] for number in range(most)]
