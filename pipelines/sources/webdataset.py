"""WebDataset shards: tars in which consecutive members of one name, less the ending, are a sample. A unit is a shard.

A tar is read as a stream. Its headers have checksums, the members' contents have none. `tarfile` ends without a word at
a damaged header, and at the end of an archive that others are joined to; so it parses single headers here, no more.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

import pyarrow as pa

from pipelines.records import Reject
from pipelines.sources.columns import Batch, is_list, is_text
from pipelines.sources.image_folder import IMAGE_SUFFIXES, file_text
from pipelines.sources.jsonl import type_of
from pipelines.sources.lines import table_types
from pipelines.sources.objects import READ_ERRORS, Listing, SourceObject, is_damage, open_unchanged, printable
from vista_core import UsageError

KEY, IMAGE, JSON = "__key__", "image", "json"
TEXTS = {"txt": ("txt", "text", "caption"), "cls": ("cls",)}  # columns, and their endings, of which the first counts
MEMBERS = (IMAGE, *TEXTS)  # columns that are members, not fields of one

BATCH_SAMPLES = 256
BATCH_BYTES = 32 << 20
MAX_SAMPLE_BYTES = 128 << 20  # a sample is held in memory, and no image of a catalog is as large
READ_BYTES = 8 << 20
SHARDS_TRIED = 8
FIRST_SAMPLES, FIRST_BYTES = 256, 64 << 20  # decide the columns

TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
GZIP = b"\x1f\x8b"
BLOCK = tarfile.BLOCKSIZE
END = 2  # blocks of zeros end an archive
MAX_END = END + tarfile.RECORDSIZE // BLOCK - 1  # when it is filled up to whole records
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
EMPTY = (*LINKS, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)  # whatever size they state
MAX_EXTENDED_BYTES, MAX_MEMBER_BYTES = 1 << 20, 1 << 40  # more is damage, whatever the checksum says

# Which columns hold a kind of JSON value.
FITS = {
    bool: pa.types.is_boolean,
    float: lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    str: lambda kind: is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind),
    list: is_list,
    dict: pa.types.is_struct,
}
MISFITS = (pa.ArrowException, OverflowError, UnicodeEncodeError)


@dataclass(frozen=True)
class WebDataset:
    """The samples of some tar shards."""

    listing: Listing
    schema: pa.Schema  # by the first samples of the first readable shard, and the table
    unread: tuple[str, ...]  # endings that these samples have and that are no column
    sample_bytes: float  # in a shard, on average
    exact: bool = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None) -> WebDataset:
        """Look at the first samples; columns of the table `like` have its types, even if no sample has them.

        Raises UsageError if no shard can be read or none has a text or an image.
        """
        seen, sample_bytes = first_samples(listing)
        records = [record for sample in seen if isinstance(record := read_sample(sample), dict)]
        unread = {ending for sample in seen for ending in sample.unread()}
        return cls(listing, schema_of(records, like), tuple(sorted(unread)), sample_bytes)

    def objects(self) -> dict[str, SourceObject]:
        """The files listed."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> WebDataset:
        """The same, of which only these files are read."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> WebDataset:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied())

    def describe(self) -> str:
        """What was found, and what of it is not read."""
        unread = f"; not read: {', '.join('.' + ending for ending in self.unread)}" if self.unread else ""
        return f"{len(self.listing.objects):,} tar shard(s), {self.listing.megabytes:,.2f} MB{unread}"

    def units(self) -> list[dict]:
        """A unit a shard, its rows guessed by its size."""
        units = []
        for item in self.listing.objects:
            rows = max(1, round(item.size / self.sample_bytes)) if item.size else 0
            unit = {"object": item.uri, "version": item.version, "rows": rows}
            units.append(unit | {"first_row": 0, "error": ""})
        return units

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of a shard's samples, and a row for each place where it is damaged.

        A row that is rejected has its key, if there is one, and nulls. Raises tarfile.ReadError, or what gzip does,
        where the shard is cut off.
        """
        row = 0
        with open_unchanged(unit["object"], unit["version"]) as handle:
            for group in groups(samples(unpacked(handle))):
                table, rejects = self.rows(group, names, printable(unit["object"]))
                yield Batch(table, range(row, row + len(group)), rejects)
                row += len(group)

    def rows(self, group: list[Sample], names: Sequence[str], shard: str) -> tuple[pa.Table, dict[int, Reject]]:
        """A row for each sample, and why some of them can't be read."""
        found = [self.fitted(read_sample(sample)) for sample in group]
        rejects = {row: record for row, record in enumerate(found) if isinstance(record, Reject)}
        records = [{} if isinstance(record, Reject) else record for record in found]
        folder = TAR_SUFFIX.sub("", shard.removeprefix(printable(self.listing.root)).lstrip("/"))
        for sample, record in zip(group, records, strict=True):
            record[KEY] = None if sample.key is None else f"{folder}/{printable(sample.key)}"
        schema = pa.schema([column for column in self.schema if column.name in names])
        columns = []
        for column in schema:
            array, misfits = converted(column, [record.get(column.name) for record in records])
            columns.append(array)
            rejects = misfits | rejects
        for row, reject in rejects.items():
            place = f"{shard}: {printable(group[row].key or '')}".removesuffix(": ")
            rejects[row] = dataclasses.replace(reject, message=f"{place}: {reject.message}"[:500])
        return pa.table(columns, schema=schema), rejects

    def fitted(self, record: dict[str, Any] | Reject) -> dict[str, Any] | Reject:
        """A record in the source's columns, or why it doesn't fit in."""
        if isinstance(record, Reject):
            return record
        first = "none of the first samples of the first shard, which decide the columns, has"
        if new := [name for name in MEMBERS if name in record and name not in self.schema.names]:
            return Reject("read", "column_type", f"it has a member for {new[0]!r}, {first} one: put one there that has")
        images = record.get(IMAGE, [])
        if IMAGE in self.schema.names and is_list(self.schema.field(IMAGE).type):
            return record | {IMAGE: images or None}
        if len(images) > 1:
            message = f"it has {len(images)} images, {first} several: put one there that has"
            return Reject("read", "several_images", message)
        return record | {IMAGE: images[0] if images else None}


@dataclass(frozen=True)
class Sample:
    """What a shard has of a key; without a key, a place where it is damaged."""

    key: str | None
    problems: list[Reject]  # why it can't be read, of which the first counts
    contents: dict[str, bytes] = field(default_factory=dict)  # of members, by ending
    others: set[str] = field(default_factory=set)  # endings that no column is made of

    def add(self, ending: str, member: tarfile.TarInfo, stream: IO[bytes]) -> None:
        """Read a member, if it is of use."""
        if not is_image(ending) and ending != JSON and not any(ending in endings for endings in TEXTS.values()):
            self.others.add(ending)
        elif ending in self.contents:
            self.reject("several_members", f"it has several .{ending}, one after the other")
        elif member.type in LINKS:
            self.reject("object_unreadable", f"its .{ending} is a link: pack the file (tar -h --hard-dereference)")
        elif sum(map(len, self.contents.values())) + member.size > MAX_SAMPLE_BYTES:
            limit = f"at most {MAX_SAMPLE_BYTES >> 20} MiB of a sample are read"
            self.reject("image_too_large", f"its .{ending} has {member.size:,} bytes, {limit}")
        else:
            self.contents[ending] = stream.read(member.size)

    def reject(self, reason: str, message: str) -> None:
        """Note why it can't be read."""
        self.problems.append(Reject("read", reason, message))

    def unread(self) -> set[str]:
        """Endings of members that make no column, or not in this sample, which has a better one for it."""
        used = {endings[0] for endings in self.texts().values()}
        return self.others | {ending for endings in self.texts().values() for ending in endings} - used

    def texts(self) -> dict[str, list[str]]:
        """For the columns of text that there are members for, their endings, the best first."""
        found = {name: [ending for ending in endings if ending in self.contents] for name, endings in TEXTS.items()}
        return {name: endings for name, endings in found.items() if endings}


@dataclass(frozen=True)
class Damage:
    """From the byte `start` of a tar to the byte `end`, nobody knows what was there."""

    start: int
    end: int


def first_samples(listing: Listing) -> tuple[list[Sample], float]:
    """The first samples of the first shard where any can be read, and the bytes that they take there on average."""
    errors = []
    for item in listing.objects[:SHARDS_TRIED]:
        seen: list[Sample] = []
        end, cause = 0, "no sample has a text or an image"
        try:
            with open_unchanged(item.uri, item.version) as handle:
                stream = unpacked(handle)
                for sample in samples(stream):
                    seen.append(sample)
                    end = stream.tell()
                    if len(seen) == FIRST_SAMPLES or end >= FIRST_BYTES:
                        break
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            cause = str(error) or type(error).__name__
        records = [read_sample(sample) for sample in seen]
        if any(record for record in records if isinstance(record, dict)):
            return seen, end / len(seen)
        rejects = [record.message for record in records if isinstance(record, Reject)]
        errors.append(f"{item.uri}: {(rejects or [cause])[0]}")
    raise UsageError(f"--source {listing.uri}: no readable tar shard: {errors[0]}")


def schema_of(records: list[dict[str, Any]], like: pa.Schema | None) -> pa.Schema:
    """The columns of some samples and of the table `like`: `image` is a list if any of the samples has several."""
    several = any(len(record.get(IMAGE, ())) > 1 for record in records)
    kinds = {IMAGE: pa.list_(pa.large_binary()) if several else pa.large_binary()} | dict.fromkeys(TEXTS, pa.string())
    names = dict.fromkeys(name for record in records for name in record)
    types = {KEY: pa.string()} | {name: kinds[name] for name in MEMBERS if name in names}
    fields = {name: type_of([record.get(name) for record in records]) for name in names if name not in types}
    fields |= table_types(like, lambda kind: any(fits(kind) for fits in FITS.values()))
    return pa.schema([*types.items(), *((name, kind) for name, kind in fields.items() if name not in (KEY, *MEMBERS))])


def converted(column: pa.Field, values: list) -> tuple[pa.Array, dict[int, Reject]]:
    """`values` in the type of `column`; JSON values that don't fit it become null, and why."""
    if column.name in (KEY, *MEMBERS):
        return pa.array(values, column.type), {}
    fits = [value is None or FITS[kind_of(value)](column.type) for value in values]
    fitting = [value if fit else None for value, fit in zip(values, fits, strict=True)]
    array = as_found(fitting)
    if array is None or array.type != column.type:
        # One by one, lest its neighbours decide what becomes of a value. Told the type, Arrow would make 1 of 1.5.
        parts = [as_found([value], column.type) for value in fitting]
        fits = [fit and part is not None for fit, part in zip(fits, parts, strict=True)]
        array = pa.concat_arrays([pa.nulls(1, column.type) if part is None else part for part in parts])
    rejects = {}
    for row in (row for row, fit in enumerate(fits) if not fit):
        message = f"{column.name} is {json.dumps(values[row])[:200]}, which can't be read as {column.type}"
        rejects[row] = Reject("read", "column_type", message)
    return array, rejects


def kind_of(value: Any) -> type:
    """The kind of a JSON value; numbers are of one kind."""
    return float if type(value) is int else type(value)


def as_found(values: list, kind: pa.DataType | None = None) -> pa.Array | None:
    """`values` in the type that they have, and from that in `kind`; None if that can't be."""
    try:
        if kind is None:
            return pa.array(values)
        # An integer can be too large for the type that it would be found to have.
        return pa.array(values, kind if type(values[0]) is int else None).cast(kind)
    except MISFITS:
        return None


def read_sample(sample: Sample) -> dict[str, Any] | Reject:
    """The columns that a sample has, images as a list; or why it can't be read."""
    if sample.problems:
        return sample.problems[0]
    record: dict[str, Any] = {}
    if images := [content for ending, content in sample.contents.items() if is_image(ending)]:
        record[IMAGE] = images
    ending = JSON
    try:
        if JSON in sample.contents:
            record |= json_fields(sample.contents[JSON])
        for name, (ending, *_) in sample.texts().items():
            record[name] = file_text(sample.contents[ending])
    except UnicodeDecodeError as error:
        return Reject("read", "text_not_utf8", f"its .{ending}: {error}")
    except RecursionError:
        return Reject("read", "json_unparsable", "its .json is nested too deeply")
    except ValueError as error:
        return Reject("read", "json_unparsable", f"its .json: {error}")
    return record


def json_fields(content: bytes) -> dict[str, Any]:
    """The fields of a JSON object, less those named like a column of members. Raises ValueError if it is no object."""
    fields = json.loads(content.decode("utf-8-sig"))
    if not isinstance(fields, dict):
        raise ValueError(f"not an object but a {type(fields).__name__}")
    "".join(fields).encode()  # half a surrogate pair, which JSON can spell, is no name for a column
    return {name: value for name, value in fields.items() if name not in (KEY, *MEMBERS)}


def is_image(ending: str) -> bool:
    """Whether an ending is, or as `left.jpg` ends in, one of images."""
    return f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES


def groups(found: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Samples by the 256 or 32 MB, the last ones also if then an error ends them."""
    group: list[Sample] = []
    size = 0
    try:
        for sample in found:
            group.append(sample)
            size += sum(map(len, sample.contents.values()))
            if len(group) == BATCH_SAMPLES or size >= BATCH_BYTES:
                yield group
                group, size = [], 0
    except READ_ERRORS:
        if group:
            yield group
        raise
    if group:
        yield group


def samples(stream: IO[bytes]) -> Iterator[Sample]:
    """The samples of a tar, and the places where it is damaged.

    Damage may have taken the last members of the sample before it, and the first ones of the sample after it: no sample
    says how many it has, and an image's text alone would pass for a record. So both are rejected; only when a sample
    goes on behind the damage, all that was lost is a part of that one. Raises ReadError where the tar is cut off, the
    sample before that being left out for the same reason.
    """
    beside_damage = Reject("read", "object_unreadable", "a part of it may be lost: the tar is damaged beside it")
    sample, suspect = None, False
    for item in headers(stream):
        if isinstance(item, Damage):
            message = f"the tar is damaged from byte {item.start:,} to byte {item.end:,}"
            yield Sample(None, [Reject("read", "object_unreadable", message)])
            if sample:
                sample.problems.append(beside_damage)
            suspect = True
        elif names := key_and_ending(item.name):
            if not sample or sample.key != names[0]:
                if sample:
                    yield sample
                sample = Sample(names[0], [beside_damage] if suspect else [])
            suspect = False
            sample.add(names[1], item, stream)
    if sample:
        yield sample


def key_and_ending(name: str) -> tuple[str, str] | None:
    """A member's key and ending; None if it is part of no sample, such as `README`, `._a.jpg` and `__meta__.json`."""
    folder, slash, base = posixpath.normpath(name).lstrip("/").rpartition("/")
    stem, _, ending = base.partition(".")
    if not stem or not ending or (stem.startswith("__") and stem.endswith("__")):
        return None
    return folder + slash + stem, ending.lower()


def headers(stream: IO[bytes]) -> Iterator[tarfile.TarInfo | Damage]:
    """The headers of a tar's files and links, the stream standing at their contents, and the places of damage.

    After damage, reading goes on at the next valid header. Raises ReadError where the tar is cut off.
    """
    at = archive = zeros = 0  # the next block; the archive's first, as several can be joined; blocks of zeros before it
    lost: int | None = None  # the first byte of damage
    extended: dict[str, str] | None = None  # what headers before a member's own say of it
    while block := block_at(stream, at):
        start, at = at, at + BLOCK
        if not block.strip(b"\0"):
            lost = start if lost is None and extended is not None else lost
            zeros, extended = zeros + 1, None
            continue
        if zeros:
            if lost is None and not is_end(zeros, start - archive):
                lost = start - zeros * BLOCK  # it is a hole
            archive, zeros = start, 0
        try:
            member = parsed(block, extended)
            if member.type in EXTENDED:
                extended = (extended or {}) | extension(member, stream)
        except (tarfile.HeaderError, ValueError):
            lost, extended = start if lost is None else lost, None
            continue
        at += 0 if member.type in EMPTY else -(-member.size // BLOCK) * BLOCK
        if member.type in EXTENDED:
            continue
        if lost is not None:
            yield Damage(lost, start)
        # Behind damage, a header's own name may be a makeshift for one in an extended header, which is lost.
        trusted = lost is None or extended is not None
        lost = extended = None
        if trusted and (member.isreg() or member.type in LINKS):
            yield member
    if not 0 < zeros <= MAX_END:
        end = f"{zeros * BLOCK:,} bytes of zeros, more than an end mark has" if zeros else "no end mark"
        where = "" if lost is None else f", and nothing from byte {lost:,} on makes sense"
        raise tarfile.ReadError(f"the tar is cut off, or its end was never written: {end}{where}")
    if lost is not None:
        yield Damage(lost, at)


def block_at(stream: IO[bytes], at: int) -> bytes:
    """The block at a byte; less than one, or nothing, at the end."""
    stream.seek(at)
    return stream.read(BLOCK)


def is_end(zeros: int, size: int) -> bool:
    """Whether so many blocks of zeros end an archive of `size` bytes, themselves included."""
    return zeros == END or (END < zeros <= MAX_END and size % tarfile.RECORDSIZE == 0)


def parsed(block: bytes, extended: dict[str, str] | None) -> tarfile.TarInfo:
    """A header. Raises HeaderError or ValueError if it is damaged, or of a sparse file: that isn't stored as it is."""
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if extended and member.type not in EXTENDED:
        member.name = extended.get("path", member.name)
        member.size = int(extended.get("size", member.size))
    if member.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse") for name in extended or ()):
        raise tarfile.HeaderError("sparse")
    if not 0 <= member.size <= (MAX_EXTENDED_BYTES if member.type in EXTENDED else MAX_MEMBER_BYTES):
        raise tarfile.HeaderError("size")
    return member


def extension(header: tarfile.TarInfo, stream: IO[bytes]) -> dict[str, str]:
    """What an extended header says of the member after it. Raises ValueError if it is damaged."""
    content = stream.read(header.size).rstrip(b"\0")
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.decode("utf-8", "surrogateescape")}
    fields = {}
    while content:  # "SIZE NAME=VALUE\n", SIZE being that of all of it
        size = int(content.partition(b" ")[0])
        line, content = content[:size], content[size:]
        if not line.endswith(b"\n"):
            raise ValueError("a line without an end")
        name, _, value = line.decode("utf-8", "surrogateescape").partition(" ")[2].partition("=")
        fields[name] = value.removesuffix("\n")
    return fields


def unpacked(handle: IO[bytes]) -> IO[bytes]:
    """A tar, gzip undone; of a store, where each read is a request, it is read in large parts."""
    buffered = io.BufferedReader(cast(io.RawIOBase, handle), READ_BYTES)
    packed = buffered.peek(len(GZIP)).startswith(GZIP)
    return cast(IO[bytes], gzip.GzipFile(fileobj=buffered) if packed else buffered)
