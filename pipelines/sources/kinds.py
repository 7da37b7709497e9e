"""What kind of source is at a URI, by the names and, where these don't tell, by the first bytes of what is there."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal, get_args

import pyarrow as pa

from pipelines.sources import Source
from pipelines.sources.arrow import ArrowFiles
from pipelines.sources.columns import Columns
from pipelines.sources.csv_lines import Csv
from pipelines.sources.image_folder import IMAGE_SUFFIXES, ImageFolder
from pipelines.sources.jsonl import JsonLines
from pipelines.sources.lance_table import LanceTable
from pipelines.sources.objects import Listing, filesystem, list_objects
from pipelines.sources.parquet import Parquet
from pipelines.sources.tabular import Format, Tabular
from pipelines.sources.webdataset import WebDataset
from vista_core import UsageError

Kind = Literal["lance", "webdataset", "parquet", "arrow", "jsonl", "csv", "images"]

# In the order in which they are looked for: img2dataset writes Parquet beside its shards, which describes them.
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "images": tuple(sorted(IMAGE_SUFFIXES)),
}
FIRST_BYTES = 512  # a tar's magic is at 257
LOOKED_INTO = 8  # objects


def open_source(uri: str, columns: Columns, like: pa.Schema | None = None, kind: Kind | None = None) -> Source:
    """The source at `uri`, of the `kind` given or found.

    `like` is the schema of the table that the records go to, whose types text formats take. Raises UsageError,
    naming what is there, if nothing there can be read.
    """
    if kind == "lance" or (kind is None and uri.rstrip("/").endswith(".lance")):
        return Tabular.open(LanceTable.open(uri), columns, uri)
    listing = list_objects(uri)
    if tables := lance_tables(listing):
        raise UsageError(f"--source {uri} is a LanceDB database: name one of its tables, such as {tables[0]}")
    found, chosen = (kind, listing.only(SUFFIXES[kind])) if kind else find_kind(listing)
    if found is None:
        raise UsageError(
            f"--source {uri}: nothing there that this job reads ({', '.join(get_args(Kind))}), only: "
            f"{name_suffixes(listing)}. Name the files with a glob, such as s3://bucket/catalog/*.parquet, or say what "
            "they are with --source-kind (JSON lines have one object a line: `jq -c '.[]'` makes them of a JSON array)"
        )
    if found == "images":
        return ImageFolder.open(listing, columns)
    chosen = chosen if chosen.objects else listing  # of a kind that was named, whatever the suffix
    return Tabular.open(open_format(found, chosen, columns, like), columns, uri, tuple(notes(listing, chosen, found)))


def notes(listing: Listing, chosen: Listing, kind: Kind) -> Iterator[str]:
    """What is there and not read."""
    taken = {item.uri for item in chosen.objects}
    others = Listing(listing.uri, listing.root, tuple(item for item in listing.objects if item.uri not in taken))
    catalogs = tuple(suffix for other in SUFFIXES if other not in (kind, "images") for suffix in SUFFIXES[other])
    unread = others.only(catalogs)
    if unread.objects:
        yield f"NOT READ, being of another kind: {name_suffixes(unread)} (a glob or --source-kind chooses)"
    if len(others.objects) > len(unread.objects):
        unread_uris = {item.uri for item in unread.objects}
        rest = tuple(item for item in others.objects if item.uri not in unread_uris)
        yield f"other files there: {name_suffixes(Listing(listing.uri, listing.root, rest))}"


def open_format(kind: Kind, listing: Listing, columns: Columns, like: pa.Schema | None) -> Format:
    """The reader for objects of a kind."""
    if kind == "webdataset":
        return WebDataset.open(listing, like)
    if kind == "arrow":
        return ArrowFiles.open(listing)
    if kind == "jsonl":
        return JsonLines.open(listing, like, columns)
    if kind == "csv":
        return Csv.open(listing, like, columns)
    return Parquet.open(listing)


def find_kind(listing: Listing) -> tuple[Kind | None, Listing]:
    """The first kind that any object is of, and its objects."""
    for kind, suffixes in SUFFIXES.items():
        if (chosen := listing.only(suffixes)).objects:
            return kind, chosen
    for item in listing.objects[:LOOKED_INTO]:
        if guess := kind_of(first_bytes(item.uri)):
            suffix = PurePosixPath(item.uri).suffix
            alike = tuple(o for o in listing.objects if PurePosixPath(o.uri).suffix == suffix)
            return guess, Listing(listing.uri, listing.root, alike)
    return None, listing


def first_bytes(uri: str) -> bytes:
    """The beginning of an object, unpacked if it is compressed; nothing where it can't be read."""
    fs, path = filesystem(uri)
    try:
        start = fs.cat_file(path, start=0, end=64 * FIRST_BYTES)
        return zlib.decompressobj(wbits=31).decompress(start, FIRST_BYTES) if start[:2] == b"\x1f\x8b" else start
    except (OSError, zlib.error, gzip.BadGzipFile):
        return b""


def kind_of(start: bytes) -> Kind | None:
    """The kind of an object that starts so. CSV is not guessed: any text could be."""
    if start[:4] == b"PAR1":
        return "parquet"
    if start[:6] == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    if start[257:262] == b"ustar":
        return "webdataset"
    return "jsonl" if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else None


def lance_tables(listing: Listing) -> list[str]:
    """The Lance tables that lie in a folder."""
    paths = [PurePosixPath(item.uri) for item in listing.objects]
    return sorted({path.parts[-3] for path in paths if len(path.parts) > 2 and path.parts[-2] == "_versions"})


def name_suffixes(listing: Listing) -> str:
    """How many objects of which suffix, the commonest first."""
    suffixes = Counter(PurePosixPath(item.uri).suffix.lower() or "no suffix" for item in listing.objects)
    return ", ".join(f"{number:,} {suffix}" for suffix, number in suffixes.most_common(8))
