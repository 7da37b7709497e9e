"""WebDataset: samples in tar shards. A unit is a shard."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.reasons import COLUMN_TYPE, LONGEST_MESSAGE, SEVERAL_IMAGES, Reject
from pipelines.sources.columns import Batch
from pipelines.sources.format import FileFormat, first_readable
from pipelines.sources.json_types import can_hold, columns_of, converted
from pipelines.sources.limits import Limits
from pipelines.sources.lines import table_types
from pipelines.sources.samples import IMAGE, KEY, MEMBERS, TEXTS, Sample, groups, samples
from pipelines.sources.tar import decompressed
from pipelines.sources.types import is_list
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged
from pipelines.storage.uris import printable

NAMES_SHOWN, LONGEST_NAME = 20, 80  # of what is not read
TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)


@dataclass(frozen=True)
class WebDataset(FileFormat):
    """The samples of tar shards. The columns are those of the first samples and of the table."""

    unread: tuple[str, ...]  # endings and keys of JSON that these samples have and of which no column is made
    sample_bytes: float  # of a shard, in the mean
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, limits: Limits) -> WebDataset:
        """Look at the first samples. Columns of the table `like` have its types, even if no sample has them.

        Raises UsageError if no shard can be read, or if none has a text or an image.
        """
        seen, sample_bytes = first_readable(listing, "tar shard", partial(first_samples, limits=limits))
        records = [record for sample in seen if isinstance(record := sample.read(limits), dict)]
        unread = {f".{ending}" for sample in seen for ending in sample.unread()}
        schema, rare = schema_of(records, like, limits)
        return cls(listing, limits, schema, (*sorted(unread), *rare), sample_bytes)

    def describe(self) -> str:
        """How many shards there are, their size, and which members and keys are not read."""
        names = [printable(name[:LONGEST_NAME]) for name in self.unread[:NAMES_SHOWN]]
        more = f" and {len(self.unread) - NAMES_SHOWN:,} more" if len(self.unread) > NAMES_SHOWN else ""
        return self.summary("tar shard") + (f"; not read: {', '.join(names)}{more}" if names else "")

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
                table, rejects = self.rows(group, names, printable(unit.uri))
                yield Batch(table, range(row, row + len(group)), rejects)
                row += len(group)

    def rows(self, group: list[Sample], names: Sequence[str], shard: str) -> tuple[pa.Table, dict[int, Reject]]:
        """A row for each sample, and why some of them can't be read."""
        found = [self.fitted(sample.read(self.limits)) for sample in group]
        rejects = {row: record for row, record in enumerate(found) if isinstance(record, Reject)}
        records = [{} if isinstance(record, Reject) else record for record in found]
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
            array, misfits = converted(column, values)
            columns.append(array)
            rejects = misfits | rejects
        for row, reject in rejects.items():
            place = f"{shard}: {printable(group[row].key or '')}".removesuffix(": ")
            rejects[row] = dataclasses.replace(reject, message=f"{place}: {reject.message}"[:LONGEST_MESSAGE])
        return pa.table(columns, schema=schema), rejects

    def fitted(self, record: dict[str, Any] | Reject) -> dict[str, Any] | Reject:
        """A record with the source's columns, or why it doesn't fit."""
        if isinstance(record, Reject):
            return record
        first = "none of the first samples of the first shard, which decide the columns, has"
        if new := [name for name in MEMBERS if name in record and name not in self.schema.names]:
            return COLUMN_TYPE.reject(f"it has a member for {new[0]!r}, but {first} one: add such a sample there")
        images = record.get(IMAGE, [])
        if IMAGE in self.schema.names and is_list(self.schema.field(IMAGE).type):
            return record | {IMAGE: images or None}
        if len(images) > 1:
            return SEVERAL_IMAGES.reject(f"it has {len(images)} images, but {first} several: add such a sample there")
        return record | {IMAGE: images[0] if images else None}


def first_samples(file: SourceFile, limits: Limits) -> tuple[list[Sample], float]:
    """The first samples of a shard, and their mean size in it.

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
                if len(seen) == limits.first_samples or end >= limits.first_bytes:
                    break
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        cause = said(error)
    records = [sample.read(limits) for sample in seen]
    if any(record for record in records if isinstance(record, dict)):
        return seen, end / len(seen)
    rejects = [record.message for record in records if isinstance(record, Reject)]
    raise tarfile.ReadError((rejects or [cause])[0])


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
