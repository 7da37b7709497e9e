"""What the vectors of a table's rows are made of, and reading it: the rows of a table as records.

A record's row number (`records.ROW`) is its address in the table: fragment << 32 | row of the fragment.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.cluster.child import ProcessLimits
from pipelines.fetching.locations import FetchError, FetchRules, absolute_uri, allowed_location
from pipelines.reasons import IMAGE_NOT_STORED, Reject
from pipelines.records import ID, IMAGE, IMAGE_URI, MODALITY, OBJECT, TEXT, replace_column
from pipelines.sources.columns import Batch, Columns, Layout
from pipelines.sources.expansion import bounded
from pipelines.sources.lance import first_rows, next_rows, open_version, read_error, stored_bytes
from pipelines.sources.limits import DEFAULTS
from pipelines.sources.roles import ID_NAMES
from pipelines.sources.types import is_number, is_text
from pipelines.sources.units import FilePart
from pipelines.tables.dataset import ADDRESS, without_source
from pipelines.tables.fresh_columns import CONTENT
from pipelines.tables.origin import MARKER, Origin
from pipelines.tables.vector_column import fingerprint_column, is_vector
from vista_core import UsageError

UNIT_ROWS: Final = 8_192  # rows that one task reads
LOOKED_AT: Final = 64  # rows by which columns are told apart
WITH_IMAGE: Final = ("image", "image_text")  # values of `modality`


@dataclass(frozen=True)
class Content:
    """The columns that vectors are made of. Stored as JSON with each vector column, so the names are fixed."""

    text: tuple[str, ...]
    image: str | None
    image_identity: str = "version"  # when an external image counts as changed

    @classmethod
    def of(cls, field: pa.Field) -> Content | None:
        """What is stored with a vector column; None if nothing is."""
        value = (field.metadata or {}).get(CONTENT)
        if value is None:
            return None
        stored = json.loads(value)
        return cls(tuple(stored["text"]), stored["image"], stored["image_identity"])

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of a column's field that `of` reads."""
        return {CONTENT.decode(): json.dumps(dataclasses.asdict(self))}

    def __str__(self) -> str:
        """For people."""
        return f"text: {' + '.join(self.text) or 'none'}, image: {self.image or 'none'}"


@dataclass(frozen=True, kw_only=True)
class Rows(FilePart):
    """Some rows of a fragment of one version of a table: of those that pass the filter, from the `first_row`th on."""

    fragment: int


@dataclass(frozen=True)
class TableRows:
    """The rows of a version of a table as records, with the fingerprints that their vectors have."""

    uri: str
    version: int
    layout: Layout
    fingerprints: tuple[str, ...]  # columns with the fingerprints of the vectors that are there
    beside: tuple[str, ...]  # other columns that are read, as far as the table has them
    where: str | None = None

    @property
    def external_images(self) -> bool:
        """True if an image can be given by its URI alone, and has to be fetched."""
        return self.layout.external_images or IMAGE_URI in self.beside

    @property
    def content_columns(self) -> list[str]:
        """The columns that decide what is embedded."""
        columns = (*self.layout.used, *(name for name in self.beside if name in (IMAGE_URI, MODALITY)))
        return [name for name in columns if name != self.layout.id]

    def at(self, version: int) -> TableRows:
        """The same of another version."""
        return dataclasses.replace(self, version=version)

    def apart(self, limits: ProcessLimits) -> TableRows:
        """The same: Lance's own files are trusted. See `stages.isolation.read_or_reject`."""
        return self

    def units(self, fragments: Sequence[int]) -> list[Rows]:
        """The units of work of some fragments, in their order."""
        dataset, found = open_version(self.uri, self.version), list[Rows]()
        for number in fragments:
            fragment = dataset.get_fragment(number)
            assert fragment is not None, "it is of this version"
            rows = fragment.count_rows(self.where)
            name = f"{self.uri}#{number}"
            for first in range(0, max(1, rows), UNIT_ROWS):
                part = Rows(
                    uris=(name,),
                    version=str(self.version),
                    rows=min(UNIT_ROWS, rows - first),
                    first_row=first,
                    fragment=number,
                )
                found.append(part)
        return found

    def read(self, unit: Rows) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The records of a unit, with the columns `fingerprints`, and those that can't be embedded."""
        for batch in self.batches(unit):
            for part in bounded(self.layout.split(batch), self.layout, DEFAULTS):
                records, rejects = self.layout.records(part, self.uri)
                yield self.completed(records, part.table, rejects), rejects

    def completed(self, records: pa.Table, rows: pa.Table, rejects: dict[int, Reject]) -> pa.Table:
        """`records` with what the table knows of its `rows` beside text and image."""
        there = set(rows.column_names)
        if OBJECT in there:
            records = replace_column(records, OBJECT, pc.fill_null(rows[OBJECT].cast(pa.string()), self.uri))
        if IMAGE_URI in there and self.layout.image != IMAGE_URI:
            records = replace_column(records, IMAGE_URI, rows[IMAGE_URI])
        if MODALITY in there:
            has_image = pc.or_(pc.is_valid(records[IMAGE]), pc.is_valid(records[IMAGE_URI]))
            lost = pc.and_(pc.is_in(rows[MODALITY], pa.array(WITH_IMAGE)), pc.invert(has_image))
            message = f"it was embedded with an image, which {self.uri} doesn't hold"
            for row in np.flatnonzero(pc.fill_null(lost, False).to_numpy()).tolist():
                rejects.setdefault(row, IMAGE_NOT_STORED.reject(message))
        for name in self.fingerprints:
            records = replace_column(records, name, rows[name])
        return records

    def batches(self, unit: Rows) -> Iterator[Batch]:
        """The columns of a unit as the table has them, within the limits of reading."""
        row, end = unit.first_row, unit.first_row + unit.rows
        names = [*dict.fromkeys((*self.layout.used, *self.fingerprints, *self.beside))]
        try:
            fragment = open_version(self.uri, int(unit.version)).get_fragment(unit.fragment)
            if fragment is None:
                raise ValueError(f"Not found: fragment {unit.fragment}")
            rows = first_rows(fragment.count_rows(), stored_bytes(fragment), DEFAULTS)
            read = functools.partial(
                fragment.to_table, names, filter=self.where, with_row_address=True, blob_handling="all_binary"
            )
            while row < end:
                part = read(limit=min(rows, end - row), offset=row)
                if not len(part):
                    return
                yield Batch(part, part[ADDRESS].to_numpy().astype(np.int64), {})
                row, rows = row + len(part), next_rows(part, DEFAULTS)
        except (ValueError, OSError) as error:
            raise read_error(unit, error) from error


def content_of(table: lance.LanceDataset, asked: Content, before: Content | None) -> tuple[Content, Layout]:
    """What vectors are made of, and how it is read.

    `asked` are the columns that the user named, `before` those that the column was filled from. Raises UsageError if
    they differ, or if there is nothing to embed.
    """
    if before is not None:
        wanted = Content(asked.text or before.text, asked.image or before.image, asked.image_identity)
        if (wanted.text, wanted.image) != (before.text, before.image):
            raise UsageError(
                f"--text-column, --image-column: the column was filled from other columns ({before}). Omit the "
                "options, or fill another --column"
            )
        asked = wanted
    elif MARKER in (table.schema.metadata or {}):
        asked = of_vista(table, asked)
    readable = pa.schema([field for field in table.schema if may_be_content(table.schema, field)])
    columns = Columns(None, asked.text, asked.image, "first", cells=None)
    layout = Layout.of(readable, columns, table.uri, functools.partial(look, table))
    layout = dataclasses.replace(layout, extra=pa.schema([]))
    return Content(layout.text, layout.image, asked.image_identity), layout


def of_vista(table: lance.LanceDataset, asked: Content) -> Content:
    """The columns of a table that vista made. Raises UsageError if it has rows with images and no images."""
    names = table.schema.names
    image = asked.image or next((name for name in (IMAGE, IMAGE_URI) if name in names), None)
    text = asked.text or tuple(name for name in (TEXT,) if name in names)
    if image is None and MODALITY in names and table.count_rows(f"{MODALITY} IN {WITH_IMAGE}"):
        raise UsageError(
            f"{table.uri} has rows with images, but not the images: it was made without --store-images. Embed the "
            "source into another --table with --store-images, or with images that are given by URI"
        )
    return dataclasses.replace(asked, text=text, image=image)


def require_images_in_reach(table: lance.LanceDataset, content: Content, rules: FetchRules) -> None:
    """Raise UsageError if images are given by URI, and of rows all over the table none has one that may be fetched.

    So it is when the source held the images themselves: then the column has only the names that they had there.
    """
    name = content.image
    if name is None or name not in table.schema.names or not is_text(table.schema.field(name).type):
        return
    names = [name, *([OBJECT] if OBJECT in table.schema.names else [])]
    spread = range(0, table.count_rows(), max(1, table.count_rows() // LOOKED_AT))
    errors = []
    for row in table.take(list(spread), columns=names).to_pylist():
        if not (uri := row[name]):
            continue
        try:
            named_in = without_source(row.get(OBJECT) or table.uri)
            allowed_location(absolute_uri(uri, named_in, rules), rules.allowed)
        except FetchError as error:
            errors.append(error.reject(uri).message)
            continue
        return
    if errors:
        raise UsageError(
            f"{table.uri}: of {len(errors)} rows with an image, in the column `{name}`, none may be fetched. "
            f"The first one is {errors[0]}. If the source held the images themselves, these are only their names: "
            "embed it into another --table with --store-images"
        )


def may_be_content(schema: pa.Schema, field: pa.Field) -> bool:
    """True for columns that may serve as text, image or id; those that vista fills beside don't."""
    made = {fingerprint_column(each.name) for each in schema if is_vector(each.type)}
    if field.name in made or field.name in (OBJECT, "_run", MODALITY) or is_vector(field.type):
        return False
    return field.name not in (ID, *ID_NAMES) or is_text(field.type) or is_number(field.type)


def look(table: lance.LanceDataset, names: Sequence[str]) -> pa.Table:
    """Some of the first rows, in these columns."""
    return table.to_table([*names], limit=LOOKED_AT, blob_handling="all_binary")


def rows_of(table: lance.LanceDataset, layout: Layout, fingerprints: Sequence[str], where: str | None) -> TableRows:
    """The rows of a table, to be read as records according to a layout."""
    schema = table.schema
    ours = MARKER in (schema.metadata or {})
    beside = [name for name in (OBJECT, MODALITY, IMAGE_URI) if ours and name in schema.names]
    return TableRows(
        uri=table.uri,
        version=table.version,
        layout=layout,
        fingerprints=tuple(fingerprints),
        beside=tuple(beside),
        where=where,
    )


def image_identity_of(table: lance.LanceDataset, asked: Any, before: Content | None) -> Any:
    """When an external image counts as changed: as asked, as the column was filled, as the table was made."""
    stored = before.image_identity if before is not None else None
    if stored is None and MARKER in (table.schema.metadata or {}):
        stored = Origin.of(table).image_identity
    if asked is not None and stored is not None and asked != stored:
        raise UsageError(f"--image-identity {asked}: {stored!r} was used before. Omit the option")
    return asked or stored or "version"
