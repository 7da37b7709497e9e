"""Finds the kind of source at a URI: by the names of its files, else by the first bytes of one."""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import pyarrow as pa

from pipelines.sources.arrow import ArrowFiles
from pipelines.sources.columns import Columns
from pipelines.sources.csv import Csv
from pipelines.sources.delta import open_delta
from pipelines.sources.format import Format
from pipelines.sources.image_metadata import metadata_files, unnamed_images
from pipelines.sources.images import CONVERT, IMAGE_SUFFIXES, ImageFolder
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.lance import LanceTable
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.lines import GZIP
from pipelines.sources.parquet import Parquet
from pipelines.sources.partitions import NO_PARTITIONS, hive_partitions
from pipelines.sources.source import Source
from pipelines.sources.table_formats import refuse_table_files
from pipelines.sources.tabular import Tabular
from pipelines.sources.text_encoding import BOM
from pipelines.sources.webdataset import WebDataset
from pipelines.storage.files import Listing, list_files, read_start
from pipelines.storage.uris import STORES, check_readable
from vista_core import UsageError
from vista_core.image_limits import OTHER_SUFFIXES

Kind = Literal["lance", "webdataset", "parquet", "arrow", "jsonl", "csv", "images"]

# In the order in which they are looked for. WebDataset comes before Parquet, since img2dataset writes Parquet files
# with metadata beside its shards.
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "images": tuple(sorted(IMAGE_SUFFIXES)),
}
LANCE_STORES = STORES | {"az", "abfss", "oss"}  # that Lance reaches by itself
FIRST_BYTES = 512  # which hold the magic of every kind; that of tar is at byte 257
FILES_LOOKED_INTO = 8


def open_source(
    uri: str,
    columns: Columns,
    like: pa.Schema | None = None,
    kind: Kind | None = None,
    limits: Limits = DEFAULTS,
) -> Source:
    """The source at `uri`, whose kind is found if it isn't given.

    `like` is the schema of the table that the records go to. Text formats take types from it. Raises UsageError, which
    says what is there, if nothing can be read.
    """
    is_lance = kind == "lance" or (kind is None and uri.rstrip("/").endswith(".lance"))
    check_readable(uri, LANCE_STORES if is_lance else STORES)
    if is_lance:
        refuse_links_out(uri, limits)
        return Tabular.open(LanceTable.open(uri, limits), columns, uri, like)
    if delta := open_delta(uri, limits):
        parquet, partitions, note = delta
        return Tabular.open(parquet, columns, uri, like, partitions).noted(note, folders=parquet.listing.folders)
    listing = list_files(uri, limits.link_targets)
    if any(file.uri.startswith(f"{listing.root}/_versions/") for file in listing.files):
        raise UsageError(f"--source {uri} is a Lance table: read it with --source-kind lance")
    found, chosen = (kind, listing.only(SUFFIXES[kind])) if kind else find_kind(listing)
    if found is None:
        others = listing.only(OTHER_SUFFIXES).files
        images = f"; {len(others):,} are images in other formats: {CONVERT}" if others else ""
        raise UsageError(
            f"--source {uri}: no files that this job reads ({', '.join(get_args(Kind))}), only: "
            f"{name_suffixes(listing)}{images}. Name the files with a glob, such as s3://bucket/catalog/*.parquet, or "
            "give their kind with --source-kind (JSON lines have an object on each line: `jq -c '.[]'` turns an array "
            "into JSON lines)"
        )
    refuse_table_files(listing, chosen)
    if found == "images":
        return ImageFolder.open(listing, columns, limits)  # with all files, since text files belong to images
    chosen = chosen if chosen.files else listing  # the user gave the kind, so suffixes don't matter
    unreadable = tuple(file for file in chosen.files if file.error)
    if len(unreadable) == len(chosen.files):
        raise UsageError(f"--source {uri}: {unreadable[0].uri}: {unreadable[0].error}")
    partitions = NO_PARTITIONS if found == "webdataset" else hive_partitions(chosen)
    readable = chosen.of(file for file in chosen.files if not file.error)
    rows = open_format(found, readable, partitions.of_others(like), columns, limits)
    source = Tabular.open(rows, columns, uri, like, partitions)
    source = source.noted(*notes(listing, chosen, found), folders=listing.folders)
    if kind is None and metadata_files(listing).files:
        source = dataclasses.replace(source, notes=(*source.notes, *unnamed_images(listing, rows, source.layout.image)))
    return dataclasses.replace(source, unreadable=unreadable + listing.unlisted)


def refuse_links_out(uri: str, limits: Limits) -> None:
    """Raise UsageError if a file of a local Lance table is a link out of it, which Lance would follow."""
    if "://" not in uri and Path(uri).is_dir():
        listing = list_files(uri, limits.link_targets)
        if bad := [*listing.left_out, *(f"{file.uri}: {file.error}" for file in listing.files if file.error)]:
            raise UsageError(f"--source {uri}: {bad[0]}")


def notes(listing: Listing, chosen: Listing, kind: Kind) -> Iterator[str]:
    """Lines for the user: which other files are there and not read."""
    yield from listing.not_read
    taken = {item.uri for item in chosen.files}
    others = listing.of(item for item in listing.files if item.uri not in taken)
    catalogs = tuple(suffix for other in SUFFIXES if other not in (kind, "images") for suffix in SUFFIXES[other])
    unread = others.only(catalogs)
    if unread.files:
        yield f"NOT READ, of another kind: {name_suffixes(unread)} (choose with a glob or --source-kind)"
    if len(others.files) > len(unread.files):
        unread_uris = {item.uri for item in unread.files}
        rest = others.of(item for item in others.files if item.uri not in unread_uris)
        yield f"other files there: {name_suffixes(rest)}"


def open_format(kind: Kind, listing: Listing, like: pa.Schema | None, columns: Columns, limits: Limits) -> Format[Any]:
    """The reader of files of a kind."""
    if kind == "webdataset":
        return WebDataset.open(listing, like, limits)
    if kind == "arrow":
        return ArrowFiles.open(listing, limits)
    if kind == "jsonl":
        return JsonLines.open(listing, like, columns, limits)
    if kind == "csv":
        return Csv.open(listing, like, columns, limits)
    return Parquet.open(listing, limits)


def find_kind(listing: Listing) -> tuple[Kind | None, Listing]:
    """The first kind of which there is a file, and the files of that kind."""
    metadata = metadata_files(listing)
    for kind, suffixes in SUFFIXES.items():
        candidates = metadata if metadata.files and kind != "webdataset" else listing
        if (chosen := candidates.only(suffixes)).files:
            return kind, chosen
    for item in [file for file in listing.files if not file.error][:FILES_LOOKED_INTO]:
        if found := kind_of(first_bytes(item.uri)):
            suffix = PurePosixPath(item.uri).suffix
            return found, listing.of(other for other in listing.files if PurePosixPath(other.uri).suffix == suffix)
    return None, listing


def first_bytes(uri: str) -> bytes:
    """The beginning of a file, decompressed; empty if it can't be read."""
    try:
        start = read_start(uri, 64 * FIRST_BYTES)
        return zlib.decompressobj(wbits=31).decompress(start, FIRST_BYTES) if start.startswith(GZIP) else start
    except (OSError, zlib.error):
        return b""


def kind_of(start: bytes) -> Kind | None:
    """The kind of a file with this beginning. Never CSV, since any text could be CSV."""
    if start[:4] == b"PAR1":
        return "parquet"
    if start[:6] == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    if start[257:262] == b"ustar":
        return "webdataset"
    return "jsonl" if start.removeprefix(BOM).lstrip().startswith(b"{") else None


def name_suffixes(listing: Listing) -> str:
    """How many files there are of each suffix, the most frequent first."""
    suffixes = Counter(PurePosixPath(item.uri).suffix.lower() or "no suffix" for item in listing.files)
    return ", ".join(f"{number:,} {suffix}" for suffix, number in suffixes.most_common(8))
