"""Listing and opening what a source consists of: files on a disk or objects in a store, through fsspec."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
from botocore.exceptions import BotoCoreError
from fsspec.utils import glob_translate

from vista_core import UsageError, VistaError

BOOKKEEPING = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_temporary|_spark_metadata|_delta_log|_(committed|started)_.*"
)

READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, EOFError, tarfile.TarError, zlib.error)


class SourceError(VistaError):
    """A source that was listed can't be read any more; what was committed stays, run again once it can be."""


class SourceChangedError(VistaError):
    """An object is no longer the one that was listed; run again to read the new one."""


@dataclass(frozen=True)
class SourceObject:
    """One file or object as it was when it was listed."""

    uri: str
    size: int
    version: str  # the etag, or size and modification time where there is none


@dataclass(frozen=True)
class Listing:
    """The objects that match `uri`, sorted by name: the listing order, the same in each run."""

    uri: str
    root: str  # the folder that relative paths start from
    objects: tuple[SourceObject, ...]

    def only(self, suffixes: Iterable[str]) -> Listing:
        """The same, without objects of other suffixes."""
        kept = tuple(item for item in self.objects if item.uri.lower().endswith(tuple(suffixes)))
        return Listing(self.uri, self.root, kept)

    def named(self, names: Container[str]) -> Listing:
        """The same, with only the objects whose `printable` URI is among `names`."""
        return Listing(self.uri, self.root, tuple(item for item in self.objects if printable(item.uri) in names))

    def by_name(self) -> dict[str, SourceObject]:
        """The objects by their `printable` URI, in listing order."""
        return {printable(item.uri): item for item in self.objects}

    def emptied(self) -> Listing:
        """The same without objects: what is sent to workers must not grow with the source."""
        return Listing(self.uri, self.root, ())

    @property
    def megabytes(self) -> float:
        """Size of all objects, in 10^6 bytes."""
        return sum(item.size for item in self.objects) / 1e6


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for `uri` and the path in it. Listings are never cached: a nightly run wants today's.

    As `fsspec.url_to_fs`, which however takes `::` in a name for a chain of file systems.
    """
    kind = fsspec.get_filesystem_class(uri.partition("://")[0] if "://" in uri else "file")
    return kind(**kind._get_kwargs_from_urls(uri), use_listings_cache=False), kind._strip_protocol(uri)


def list_objects(uri: str) -> Listing:
    """List what `uri` names: a folder, one object, or a glob. Raises UsageError with the cause if it can't be."""
    try:
        fs, path = filesystem(uri)
        found = {}
        if fsspec.core.has_magic(path):
            found = fs.glob(path, detail=True)
            root = before_magic(path)
        if not found:  # a plain path, a name with brackets, or a bucket that isn't there, of which a glob says nothing
            found = fs.find(path, detail=True)
            root = path if fs.isdir(path) else path.rpartition("/")[0]
        found = {name: link_target(fs, info) if info.get("islink") else info for name, info in found.items()}
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        cause = f"{type(error).__name__}: {error}".rstrip(".")
        raise UsageError(f"--source {uri}: cannot be listed: {cause}. {credentials_hint(uri)}") from error
    objects = [
        SourceObject(object_uri(fs, name), int(info["size"]), object_version(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and (name == path or not hidden(name, root))
    ]
    if not objects:
        raise UsageError(f"--source {uri}: nothing is there. Check the path; a glob needs quotes in the shell")
    return Listing(uri, object_uri(fs, root), tuple(objects))


def before_magic(path: str) -> str:
    """The folder in which a glob begins to match."""
    return path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]


def bucket_or_folder(uri: str) -> str:
    """What belongs to a source beside its records: its bucket, or on a disk its folder."""
    fs, path = filesystem(uri)
    if "://" in uri:
        return str(fs.unstrip_protocol(path.partition("/")[0]))
    if fsspec.core.has_magic(path) and not fs.exists(path):
        return before_magic(path)
    return path if fs.isdir(path) and not path.endswith(".lance") else path.rpartition("/")[0]


def is_named_by(uri: str, name: str) -> bool:
    """Whether an object of this (printable) name would be listed for `uri`: a folder, one object, or a glob."""
    uri = printable(uri)
    if fsspec.core.has_magic(uri) and re.fullmatch(glob_translate(uri), name):
        return True
    return name == uri or name.startswith((uri.rstrip("/") + "/", uri + "#"))  # the latter: fragments of a Lance table


def link_target(fs: Any, link: dict) -> dict:
    """What a symbolic link leads to, which fsspec says of a link alone but not in a listing."""
    try:
        return fs.info(link["name"])
    except FileNotFoundError:
        return link | {"type": "file"}  # the reader will say that it can't be read


def credentials_hint(uri: str) -> str:
    """What to set when an s3:// URI can't be reached."""
    if not uri.startswith("s3://"):
        return "Check the path"
    return (
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other servers than AWS, AWS_ENDPOINT_URL"
    )


def hidden(name: str, root: str) -> bool:
    """Dot files and what Spark and Delta write beside data are not data; `_DSC0001.jpg` is, since cameras name so."""
    parts = name.removeprefix(root).strip("/").split("/")
    return any(part.startswith(".") or BOOKKEEPING.fullmatch(part) for part in parts)


def object_uri(fs: Any, path: str) -> str:
    """The URI by which users know an object; for local files the plain path."""
    return str(fs.unstrip_protocol(path)).removeprefix("file://")


def printable(uri: str) -> str:
    """`uri` as a table can hold it: bytes of a file's name that are not UTF-8 are spelled out."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def object_version(info: dict) -> str:
    """What changes whenever an object does: its etag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag).strip('"') if etag else f"{info['size']}-{info.get('mtime', '')}"


@contextmanager
def open_unchanged(uri: str, version: str) -> Iterator[IO[bytes]]:
    """An object, opened for ranged reads; SourceChangedError if it is, or becomes, another than was listed."""
    fs, path = filesystem(uri)
    # pyarrow asks for exactly the ranges it needs; a read-ahead cache would fetch megabytes for a footer.
    options = {"cache_type": "none"} if uri.startswith("s3://") else {}
    try:
        with fs.open(path, "rb", **options) as handle:
            check_unchanged(uri, version)  # after opening: s3fs reads only what it opened, by its etag
            yield handle
    except READ_ERRORS as error:
        check_unchanged(uri, version)  # half of one version and half of another looks like damage
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"{uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error
        raise


def is_damage(error: Exception) -> bool:
    """Whether one of READ_ERRORS is damaged content, which a retry won't mend.

    pyarrow raises OSError for damage, too, but without an errno; so does gzip.
    """
    if isinstance(error, OSError):
        return isinstance(error, gzip.BadGzipFile) or (type(error) is OSError and error.errno is None)
    return True


def check_unchanged(uri: str, version: str) -> None:
    """Raise SourceChangedError unless the object is still the version that was listed."""
    fs, path = filesystem(uri)
    try:
        now = object_version(fs.info(path))
    except FileNotFoundError:
        now = "gone"
    if now != version:
        raise SourceChangedError(
            f"{uri} changed while the run read it (listed as {version}, now {now}); what was committed stays, "
            "run the same command again"
        )


def absolute(uri: str) -> str:
    """`uri` as every worker understands it: local paths made absolute, `file://` dropped."""
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())
