"""Listing and opening the files of a source: on a disk or in an object store, through fsspec."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from botocore.exceptions import BotoCoreError

from pipelines.storage.errors import READ_ERRORS, SourceChangedError, SourceError, credentials_hint, is_damage
from pipelines.storage.uris import before_magic, file_uri, filesystem, listing_order, printable
from vista_core import UsageError

# What Spark and Delta Lake write beside data.
BOOKKEEPING = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_temporary|_spark_metadata|_delta_log|_(committed|started)_.*"
)


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, in the version that was listed."""

    uri: str
    size: int  # bytes
    version: str  # the etag or, where there is none, size and modification time


@dataclass(frozen=True)
class Listing:
    """The files that a URI names, in listing order (`uris.listing_order`), which is the same in each run."""

    uri: str
    root: str  # the folder that relative paths start from
    files: tuple[SourceFile, ...]

    def only(self, suffixes: Iterable[str]) -> Listing:
        """The files with one of these suffixes."""
        return self.of(file for file in self.files if file.uri.lower().endswith(tuple(suffixes)))

    def named(self, names: Container[str]) -> Listing:
        """The files whose printable URI is among `names`."""
        return self.of(file for file in self.files if printable(file.uri) in names)

    def of(self, files: Iterable[SourceFile]) -> Listing:
        """The same listing with other files; workers get one without any, since it must not grow with the source."""
        return Listing(self.uri, self.root, tuple(files))

    def by_name(self) -> dict[str, SourceFile]:
        """The files by their printable URI, in listing order."""
        return {printable(file.uri): file for file in self.files}

    @property
    def megabytes(self) -> float:
        """Size of all files, in 10^6 bytes."""
        return sum(file.size for file in self.files) / 1e6


def list_files(uri: str) -> Listing:
    """The files that `uri` names: a folder, one file, or a glob. Raises UsageError if they can't be listed."""
    try:
        fs, path = filesystem(uri)
        found = {}
        if fsspec.core.has_magic(path):
            found = fs.glob(path, detail=True)
            root = before_magic(path)
        if not found:  # a plain path, a name with brackets, or a missing bucket, which a glob does not report
            found = fs.find(path, detail=True)
            root = path if fs.isdir(path) else path.rpartition("/")[0]
        found = {name: link_target(fs, info) if info.get("islink") else info for name, info in found.items()}
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        cause = f"{type(error).__name__}: {error}".rstrip(".")
        raise UsageError(f"--source {uri}: cannot be listed: {cause}. {credentials_hint(uri)}") from error
    files = [
        SourceFile(file_uri(fs, name), int(info["size"]), file_version(info))
        for name, info in found.items()
        if info["type"] == "file" and (name == path or not hidden(name, root))
    ]
    if not files:
        raise UsageError(f"--source {uri}: nothing is there. Check the path; a glob needs quotes in the shell")
    files.sort(key=lambda file: listing_order(printable(file.uri)))
    return Listing(uri, file_uri(fs, root), tuple(files))


def link_target(fs: Any, link: dict) -> dict:
    """The target of a symbolic link, which fsspec gives for a single link but not in a listing."""
    try:
        return fs.info(link["name"])
    except FileNotFoundError:
        return link | {"type": "file"}  # the reader will say that it can't be read


def hidden(name: str, root: str) -> bool:
    """True for dot files and the bookkeeping of Spark and Delta Lake, but not for `_DSC0001.jpg`, a camera's name."""
    parts = name.removeprefix(root).strip("/").split("/")
    return any(part.startswith(".") or BOOKKEEPING.fullmatch(part) for part in parts)


def file_version(info: dict) -> str:
    """What changes whenever a file does: its etag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag).strip('"') if etag else f"{info['size']}-{info.get('mtime', '')}"


@contextlib.contextmanager
def open_unchanged(uri: str, version: str) -> Iterator[IO[bytes]]:
    """Open a file for ranged reads.

    Raises SourceChangedError if it is no longer the version that was listed, or changes while it is read, and
    SourceError if the disk or store fails.
    """
    try:
        with open_file(uri) as handle:
            check_unchanged(uri, version)  # after opening: s3fs reads only what it opened, by its etag
            yield handle
    except READ_ERRORS as error:
        if not is_damage(error):
            with contextlib.suppress(OSError):  # this request may fail, too
                check_unchanged(uri, version)
            raise SourceError(f"{uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error
        check_unchanged(uri, version)  # a mix of two versions looks like damage
        raise


def open_file(uri: str) -> Any:
    """Open a file for reading, without a read-ahead cache, which would fetch megabytes for a Parquet footer."""
    fs, path = filesystem(uri)
    return fs.open(path, "rb", **({"cache_type": "none"} if uri.startswith("s3://") else {}))


def read_start(uri: str, size: int) -> bytes:
    """The first `size` bytes of a file, or all of a smaller one."""
    with open_file(uri) as handle:
        end = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        return handle.read(min(size, end))  # Python would allocate `size` bytes for a smaller file, too


def check_unchanged(uri: str, version: str) -> None:
    """Raise SourceChangedError unless the file is still the version that was listed."""
    fs, path = filesystem(uri)
    try:
        now = file_version(fs.info(path))
    except FileNotFoundError:
        now = "gone"
    if now != version:
        raise SourceChangedError(
            f"{uri} changed while the run read it (listed as {version}, now {now}); what was committed stays, "
            "run the same command again"
        )
