"""Listing and opening what a source consists of: files on a disk or objects in a store, through fsspec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from botocore.exceptions import BotoCoreError
from fsspec.core import url_to_fs

from vista_core import UsageError, VistaError


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


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for `uri` and the path in it. Listings are never cached: a nightly run wants today's."""
    if uri.startswith("s3://"):
        return url_to_fs(uri, use_listings_cache=False)
    return url_to_fs(uri)


def list_objects(uri: str) -> Listing:
    """List what `uri` names: a glob, a folder, or one object. Raises UsageError with the cause if it can't be."""
    try:
        fs, path = filesystem(uri)
        if fsspec.core.has_magic(path):
            found = fs.glob(path, detail=True)
            root = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]
        else:
            found = fs.find(path, detail=True)
            root = path if fs.isdir(path) else path.rpartition("/")[0]
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        raise UsageError(
            f"--source {uri}: cannot be listed: {type(error).__name__}: {error}. {credentials_hint(uri)}"
        ) from error
    objects = [
        SourceObject(object_uri(fs, name), int(info["size"]), object_version(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and not hidden(name, root)
    ]
    if not objects:
        raise UsageError(f"--source {uri}: nothing is there. Check the path; a glob needs quotes in the shell")
    return Listing(uri, object_uri(fs, root), tuple(objects))


def credentials_hint(uri: str) -> str:
    """What to set when an s3:// URI can't be reached."""
    if not uri.startswith("s3://"):
        return "Check the path"
    return (
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other servers than AWS, AWS_ENDPOINT_URL"
    )


def hidden(name: str, root: str) -> bool:
    """Spark's and editors' own files (`_SUCCESS`, `.crc`, `._x`) are not data."""
    return any(part.startswith((".", "_")) for part in name.removeprefix(root).strip("/").split("/"))


def object_uri(fs: Any, path: str) -> str:
    """The URI by which users know an object; for local files the plain path."""
    return str(fs.unstrip_protocol(path)).removeprefix("file://")


def object_version(info: dict) -> str:
    """What changes whenever an object does: its etag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag).strip('"') if etag else f"{info['size']}-{info.get('mtime', '')}"


def open_unchanged(uri: str, version: str) -> IO[bytes]:
    """Open an object for ranged reads, unless it is no longer the version that was listed (SourceChangedError)."""
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
    # pyarrow asks for exactly the ranges it needs; a read-ahead cache would fetch megabytes for a footer.
    return fs.open(path, "rb", cache_type="none") if uri.startswith("s3://") else fs.open(path, "rb")


def absolute(uri: str) -> str:
    """`uri` as every worker understands it: local paths made absolute, `file://` dropped."""
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())
