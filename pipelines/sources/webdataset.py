"""WebDataset: samples in tar shards. A unit is a shard."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.reasons import COLUMN_TYPE, LONGEST_MESSAGE, SEVERAL_IMAGES, Reject
from pipelines.sources.columns import Batch
from pipelines.sources.format import FileFormat, sampled
from pipelines.sources.images import CONVERT
from pipelines.sources.json_types import can_hold, columns_of, converted
from pipelines.sources.limits import Limits
from pipelines.sources.lines import table_types
from pipelines.sources.samples import (
    IMAGE,
    KEY,
    MEMBERS,
    TEXTS,
    Sample,
    groups,
    is_image,
    is_text,
    last_suffix,
    samples,
)
from pipelines.sources.tar import decompressed
from pipelines.sources.types import is_list
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged
from pipelines.storage.uris import printable
from vista_core import UsageError

TEXT, CLS = TEXTS
NAMES_SHOWN, LONGEST_NAME = 20, 80  # of what is not read
NONE_SEEN = "none of the first samples of some shards, which decide the columns, has"
ADD_ONE = "add such a sample to the first ones of the first shard"
TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)


@dataclass(frozen=True)
class WebDataset(FileFormat):
    """The samples of tar shards. The columns are those of the first samples and of the table."""

    unread: tuple[str, ...]  # endings and keys of JSON that these samples have and of which no column is made
    sample_bytes: float  # of a shard, in the mean
    notes: tuple[str, ...] = ()  # what these samples lose because of the names of their members
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, limits: Limits) -> WebDataset:
        """Look at the first samples of several shards. Columns of the table `like` have its types.

        Raises UsageError if no shard can be read, or if none has a text or an image.
        """
        seen, sample_bytes = samples_of(listing, limits)
        records = [record for sample in seen if isinstance(record := sample.read(limits), dict)]
        unread = {f".{ending}" for sample in seen for ending in sample.unread()}
        schema, rare = schema_of(records, like, limits)
        return cls(listing, limits, schema, (*sorted(unread), *rare), sample_bytes, tuple(notes_on(seen)))

    def describe(self) -> str:
        """How many shards there are, their size, and which members and keys are not read."""
        names = [printable(name[:LONGEST_NAME]) for name in self.unread[:NAMES_SHOWN]]
        more = f" and {len(self.unread) - NAMES_SHOWN:,} more" if len(self.unread) > NAMES_SHOWN else ""
        said = self.summary("tar shard") + (f"; not read: {', '.join(names)}{more}" if names else "")
        return "; ".join([said, *self.notes])

    def units(self) -> list[FilePart]:
        """A unit for each shard. `rows` is estimated from its size."""
        return [
            FilePart(
                uris=(file.uri,),
                version=file.version,
                rows=max(1, round(file.size / self.sample_bytes)) if file.size else 0,
            )
            for file in self.listing.files
        ]

    def batches(self, unit: FilePart, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of a shard's samples, and a row for each damaged part.

        A rejected row has nulls, and its key if there is one. Raises tarfile.ReadError or an error of gzip where the
        shard is cut off.
        """
        row = 0
        with open_unchanged(unit.uri, unit.version) as handle:
            found = samples(decompressed(handle, self.limits), self.limits)
            for group in groups(found, self.limits):
                yield self.batch(group, names, printable(unit.uri), row)
                row += len(group)

    def batch(self, group: list[Sample], names: Sequence[str], shard: str, row: int) -> Batch:
        """A row for each sample, the first of which has the number `row`, and why some of them can't be read."""
        rejects: dict[int, Reject] = {}
        misfits: dict[int, dict[str, str]] = {}
        records = []
        for number, sample in enumerate(group):
            record = self.fitted(sample.read(self.limits))
            if isinstance(record, Reject):
                place = f"{shard}: {printable(sample.key or '')}".removesuffix(": ")
                message = f"{place}: {record.message}"[:LONGEST_MESSAGE]
                rejects[number], record = dataclasses.replace(record, message=message), {}
            elif CLS in record and CLS not in self.schema.names:
                misfits[number] = {CLS: f"it has a .{CLS}, but {NONE_SEEN} one"}
            records.append(record)
        folder = TAR_SUFFIX.sub("", shard.removeprefix(printable(self.listing.root)).lstrip("/"))
        for sample, record in zip(group, records, strict=True):
            record[KEY] = None if sample.key is None else f"{folder}/{printable(sample.key)}"
        schema = pa.schema([column for column in self.schema if column.name in names])
        columns = []
        for column in schema:
            values = [record.get(column.name) for record in records]
            if column.name in (KEY, *MEMBERS):
                columns.append(pa.array(values, column.type))
                continue
            array, unfit = converted(column, values)
            columns.append(array)
            for number, reject in unfit.items():
                misfits.setdefault(number, {})[column.name] = reject.message
        return Batch(pa.table(columns, schema=schema), range(row, row + len(group)), rejects, misfits)

    def fitted(self, record: dict[str, Any] | Reject) -> dict[str, Any] | Reject:
        """A record with the source's columns, or why its text or images don't fit."""
        if isinstance(record, Reject):
            return record
        if new := [name for name in (IMAGE, TEXT) if name in record and name not in self.schema.names]:
            return COLUMN_TYPE.reject(f"it has a member for {new[0]!r}, but {NONE_SEEN} one: {ADD_ONE}")
        images = record.get(IMAGE, [])
        if IMAGE in self.schema.names and is_list(self.schema.field(IMAGE).type):
            return record | {IMAGE: images or None}
        if len(images) > 1:
            return SEVERAL_IMAGES.reject(f"it has {len(images)} images, but {NONE_SEEN} several: {ADD_ONE}")
        return record | {IMAGE: images[0] if images else None}


def samples_of(listing: Listing, limits: Limits) -> tuple[list[Sample], float]:
    """The first samples of several shards, some of which are read at once, and their mean size in a shard.

    Damaged shards are left out. Raises UsageError if all of them are damaged.
    """

    def look(file: SourceFile) -> tuple[list[Sample], int] | Exception:
        try:
            return first_samples(file, limits, limits.first_bytes // len(files))
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            return error

    files = sampled([file for file in listing.files if file.size] or listing.files, limits.first_shards)
    with ThreadPoolExecutor(limits.first_shards) as pool:
        found = list(pool.map(look, files))
    read = [each for each in found if not isinstance(each, Exception)]
    seen = [sample for samples, _ in read for sample in samples]
    if not seen:
        errors = [f"{file.uri}: {said(e)}" for file, e in zip(files, found, strict=True) if isinstance(e, Exception)]
        raise UsageError(f"--source {listing.uri}: no readable tar shard: {errors[0]}")
    return seen, sum(size for _, size in read) / len(seen)


def first_samples(file: SourceFile, limits: Limits, most_bytes: int) -> tuple[list[Sample], int]:
    """The first samples of a shard, and how many of its bytes they take.

    Raises tarfile.ReadError if none of them has a text or an image that can be read.
    """
    seen: list[Sample] = []
    end, cause = 0, "no sample has a text or an image"
    try:
        with open_unchanged(file.uri, file.version) as handle:
            stream = decompressed(handle, limits)
            for sample in samples(stream, limits):
                seen.append(sample)
                end = stream.tell()
                if len(seen) == limits.first_samples or end >= most_bytes:
                    break
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        cause = said(error)
    records = [sample.read(limits) for sample in seen]
    if any(record for record in records if isinstance(record, dict)):
        return seen, end
    rejects = [record.message for record in records if isinstance(record, Reject)]
    raise tarfile.ReadError((rejects or [cause])[0])


def notes_on(seen: list[Sample]) -> Iterator[str]:
    """What samples lose because of the names of their members, with the cure."""
    if others := sorted({last_suffix(ending) for sample in seen for ending in sample.unreadable_images()}):
        yield f"NOT READ, images in other formats: {', '.join(others)} ({CONVERT})"
    for sample in seen:
        images = sorted(ending for ending in sample.contents if is_image(ending) and "." in ending)
        if len(images) > 1:
            first, second = (printable(f"{sample.key}.{ending}"[:LONGEST_NAME]) for ending in images[:2])
            yield f"a key ends at the first dot: {first} and {second} are images of one record; if not, rename them"
            break
    for sample in seen:
        if texts := sorted(ending for ending in sample.unused if "." in ending and is_text(last_suffix(ending)[1:])):
            name = printable(f"{sample.key}.{texts[0]}"[:LONGEST_NAME])
            yield f"NOT READ, texts of several endings, such as {name}: a key ends at the first dot; rename them"
            break


def schema_of(
    records: list[dict[str, Any]], like: pa.Schema | None, limits: Limits
) -> tuple[pa.Schema, tuple[str, ...]]:
    """The columns of some samples and of the table `like`, and the rarer keys beyond the limit of columns.

    `image` is a list if any of the samples has several.
    """
    several = any(len(record.get(IMAGE, ())) > 1 for record in records)
    kinds = {IMAGE: pa.list_(pa.large_binary()) if several else pa.large_binary()} | dict.fromkeys(TEXTS, pa.string())
    types = {KEY: pa.string()} | {name: kinds[name] for name in MEMBERS if any(name in record for record in records)}
    found, rare = columns_of([{k: v for k, v in record.items() if k not in types} for record in records], limits)
    fields = {field.name: field.type for field in found} | table_types(like, can_hold)
    rare = tuple(name for name in rare if name not in fields)
    others = ((name, kind) for name, kind in fields.items() if name not in (KEY, *MEMBERS))
    return pa.schema([*types.items(), *others]), rare
