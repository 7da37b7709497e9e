"""The beginnings of text files, of which a sample decides the columns and their types."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.sources.columns import Columns, Layout
from pipelines.sources.format import FILE_THREADS, sampled
from pipelines.sources.limits import Limits
from pipelines.sources.lines import GZIP, Decompressed, RecordEnds, without_bom
from pipelines.sources.text_encoding import UTF8, decoded, encoding_of, not_text
from pipelines.sources.types import merged
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged
from vista_core import UsageError

FILES_SAMPLED = 16
LEAST_BYTES = 64 << 10  # of a file of the sample, however many there are
STEP = 8 << 10  # bytes

Found = TypeVar("Found")


class Head(NamedTuple):
    """The beginning of a file."""

    content: bytes  # decompressed, in UTF-8
    ends: np.ndarray  # of the whole records in it
    is_gzip: bool
    encoding: str
    density: float  # bytes of the file per byte of content

    @property
    def is_plain(self) -> bool:
        """True if the content is the file's own bytes."""
        return not self.is_gzip and self.encoding == UTF8


class InSmallSteps(io.BytesIO):
    """Content that is given 8 kB at a time, so that its position says how much of it was unpacked.

    From Python 3.12 on, gzip asks for 128 kB at once.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """As in BytesIO, but at most 8 kB."""
        return super().read(min(size, STEP) if size is not None and size >= 0 else STEP)


class Reading(NamedTuple):
    """How files are read."""

    limits: Limits
    encoding: str  # of files without a byte order mark


class Size(NamedTuple):
    """How long the records of a file are."""

    record_bytes: float  # of a record in UTF-8, in the mean
    density: float  # bytes of the file per byte in UTF-8
    is_gzip: bool


def read_head(file: SourceFile, size: int, ends_of: RecordEnds, records: int, reading: Reading) -> Head:
    """The first `size` bytes of a file, or more if its first `records` need them, up to the longest record."""
    limits = reading.limits
    while True:
        with open_unchanged(file.uri, file.version) as handle:
            start = handle.read(size)
        is_gzip, source = start.startswith(GZIP), InSmallSteps(start)
        unpacked = Decompressed(source, limits).read(size) if is_gzip else start
        is_whole = len(start) == file.size and not (is_gzip and len(unpacked) == size)
        encoding = encoding_of(unpacked, reading.encoding)
        content = decoded(unpacked, encoding)
        density = (source.tell() if is_gzip else len(start)) / max(1, len(content))
        content = without_bom(content) + b"\n" * is_whole
        ends = ends_of(content)
        if len(ends) >= records or is_whole or size > limits.record_bytes:
            return Head(content, ends, is_gzip, encoding, density)
        size = min(8 * size, limits.record_bytes + 1)


def samples(listing: Listing, kind: str, look: Callable[[SourceFile, int], Found], limits: Limits) -> list[Found]:
    """What `look` finds in the first bytes of some files, which are spread evenly and looked into at once.

    Files that are empty or damaged are left out. Raises UsageError if none is left.
    """
    files = sampled([file for file in listing.files if file.size], FILES_SAMPLED)
    size = min(limits.sample_bytes, max(LEAST_BYTES, limits.sample_bytes // max(1, len(files))))

    def found_or_error(file: SourceFile) -> Found | str:
        try:
            return look(file, size)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            return f"{file.uri}: {said(error)}"

    with ThreadPoolExecutor(FILE_THREADS) as pool:
        outcomes = list(pool.map(found_or_error, files))
    found = [each for each in outcomes if not isinstance(each, str)]
    if not found:
        errors = [each for each in outcomes if isinstance(each, str)]
        raise UsageError(f"--source {listing.uri}: no readable {kind}: {errors[0] if errors else 'all are empty'}")
    return found


def mean_size(sizes: Iterable[Size]) -> Size:
    """The size of all files: that of a record, and the density of the compressed ones among them."""
    known = list(sizes)
    packed = [size for size in known if size.is_gzip] or known
    return Size(
        sum(size.record_bytes for size in known) / len(known), sum(size.density for size in packed) / len(packed), False
    )


def continued(found: pa.DataType, before: pa.DataType | None, fits: Callable[[pa.DataType], bool]) -> pa.DataType:
    """The type of a column that has the type `before` in the table.

    It is that of the table if the sample's values fit it, else one that holds both. If no type does, it is that of the
    table, and values that don't fit become null.
    """
    if before is None or found == before:
        return found
    if pa.types.is_null(found) or fits(before):
        return before
    wider = merged(found, before)
    return before if wider is None else wider


def roles_of(schema: pa.Schema, columns: Columns, uri: str) -> frozenset[str]:
    """The columns that are embedded, or are ids. Of the others, values that don't fit are null."""
    try:
        layout = Layout.of(schema, columns, uri)
    except UsageError:  # which is raised again when the layout is needed
        return frozenset(columns.named)
    return frozenset(name for name in (layout.id, *layout.text, layout.image) if name is not None)


def not_utf8(file: SourceFile, head: Head) -> str:
    """A line for the user if the text of a file's beginning is not UTF-8, or not in the encoding that was named."""
    try:
        head.content[: int(head.ends[-1]) if len(head.ends) else 0].decode()
    except UnicodeDecodeError as error:
        return f"{file.uri}: {not_text(error, head.encoding)}"
    return ""
