"""Listing and opening the files of a source: on a disk or in an object store, through fsspec."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import fsspec
from botocore.exceptions import BotoCoreError

from pipelines.storage.errors import (
    READ_ERRORS,
    SourceChangedError,
    SourceError,
    credentials_hint,
    is_damage,
    unreachable,
)
from pipelines.storage.local import Folders, UnreadableError, open_regular, real_folders, refusal
from pipelines.storage.uris import before_magic, file_uri, filesystem, listing_order, printable
from pipelines.storage.walk import find, is_local
from vista_core import UsageError

NAMES_COMPARED = 1000  # of a folder, with the name that is missing there


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, in the version that was listed."""

    uri: str
    size: int  # bytes
    version: str  # the etag or, where there is none, size and modification time
    error: str = ""  # why it must not be read, if so


@dataclass(frozen=True)
class Listing:
    """The files that a URI names, in listing order (`uris.listing_order`), which is the same in each run."""

    uri: str
    root: str  # the folder that relative paths start from
    files: tuple[SourceFile, ...]
    folders: Folders | None = None  # where files of a disk must really be; None in a store
    unlisted: tuple[SourceFile, ...] = ()  # folders that could not be listed, as files with an error
    left_out: tuple[str, ...] = ()  # links to folders that are not followed, and why
    logs: tuple[str, ...] = ()  # folders that are perhaps the log of a table
    notes: tuple[str, ...] = ()  # what else is there, but not among the files

    def only(self, suffixes: Iterable[str]) -> Listing:
        """The files with one of these suffixes."""
        return self.of(file for file in self.files if file.uri.lower().endswith(tuple(suffixes)))

    def named(self, names: Container[str]) -> Listing:
        """The files whose printable URI is among `names`."""
        return self.of(file for file in self.files if printable(file.uri) in names)

    def of(self, files: Iterable[SourceFile]) -> Listing:
        """The same listing with other files; workers get one without any, since it must not grow with the source."""
        return Listing(self.uri, self.root, tuple(files), self.folders)

    def by_name(self) -> dict[str, SourceFile]:
        """The files by their printable URI, in listing order."""
        return by_name(self.files)

    @property
    def not_read(self) -> list[str]:
        """Lines for the user: the folders that could not be listed, the links that are not followed, and the notes."""
        unlisted = (f"{item.uri}: {item.error}" for item in self.unlisted)
        return [f"NOT READ: {each}" for each in (*self.left_out, *unlisted, *self.notes)]

    @property
    def megabytes(self) -> float:
        """Size of all files, in 10^6 bytes."""
        return sum(file.size for file in self.files) / 1e6


def by_name(files: Iterable[SourceFile]) -> dict[str, SourceFile]:
    """Files by their printable URI."""
    return {printable(file.uri): file for file in files}


def list_files(uri: str, link_targets: Iterable[str] = ()) -> Listing:
    """The files that `uri` names: a folder, one file, or a glob. Raises UsageError if they can't be listed.

    A link among them must lead to a file below the folder of the source, or below one of `link_targets`. Lance tables
    below a folder are left out: they are no files of another kind, and may be those that the source is embedded into.
    """
    try:
        fs, path = filesystem(uri)
        folders = real_folders([own_folder(path), *link_targets]) if is_local(fs) else None
        found = find(fs, path, folders or ())
    except (OSError, BotoCoreError, ValueError, ImportError) as error:
        raise UsageError(f"--source {uri}: cannot be listed: {unreachable(error, uri)}") from error
    found.keep_data(path)
    files = [
        SourceFile(
            file_uri(fs, name),
            int(info["size"]),
            file_version(info),
            refusal(name, folders) if folders and (info.get("islink") or info["type"] != "file") else "",
        )
        for name, info in found.files.items()
    ]
    unlisted = tuple(SourceFile(name, 0, "", error) for name, error in sorted(found.unlisted.items()))
    if found.tables and not files:
        table = file_uri(fs, min(found.tables))
        raise UsageError(f"--source {uri} is a LanceDB database: name one of its tables, such as {table}")
    if not files:
        cause = f"{unlisted[0].uri}: {unlisted[0].error}" if unlisted else why_nothing(fs, path)
        raise UsageError(". ".join([f"--source {uri}: {cause}", *found.notes, "A glob needs quotes in the shell"]))
    files.sort(key=lambda file: listing_order(printable(file.uri)))
    left_out = tuple(f"{name}: {why}" for name, why in sorted(found.left_out.items()))
    logs = tuple(sorted(file_uri(fs, name) for name in found.logs))
    root = file_uri(fs, found.root)
    return Listing(uri, root, tuple(files), folders, unlisted, left_out, logs, tuple(found.notes))


def why_nothing(fs: Any, path: str) -> str:
    """What is there instead of a source's files, as far as a disk tells it at once."""
    missing = Path(path)
    is_pattern = fsspec.core.has_magic(path) and not missing.exists()
    missing = Path(before_magic(path)) if is_pattern else missing
    if not is_local(fs):
        return "nothing is there; check the path"
    if is_pattern and missing.exists():
        found = next(iter(fs.glob(path)), None)
        only = f"but folders, such as {found}: add /* to the pattern" if found else "that the pattern matches"
        return f"nothing is there {only}"
    if missing.exists():
        return "nothing is there: the folder has no files, hidden ones aside"
    while not missing.parent.exists():
        missing = missing.parent
    near = difflib.get_close_matches(
        missing.name, islice((each.name for each in os.scandir(missing.parent)), NAMES_COMPARED), 1
    )
    return f"nothing is there: {missing.parent} has no {missing.name}" + (f", but {near[0]}" if near else "")


def own_folder(path: str) -> str:
    """The local folder that a source names or, for a glob, begins with; the file, if it names one."""
    return before_magic(path) if fsspec.core.has_magic(path) and not Path(path).exists() else path


def file_version(info: dict) -> str:
    """What changes whenever a file does: its etag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag).strip('"') if etag else f"{info['size']}-{info.get('mtime', '')}"


@contextlib.contextmanager
def open_unchanged(uri: str, version: str) -> Iterator[IO[bytes]]:
    """Open a file for ranged reads.

    Raises SourceChangedError if it is no longer the version that was listed, or changes while it is read, SourceError
    if the disk or store fails, and UnreadableError for a file of a disk that can't be read although the disk works.
    """
    try:
        with open_file(uri) as handle:
            check_unchanged(uri, version)  # after opening: s3fs reads only what it opened, by its etag
            yield handle
    except UnreadableError:
        raise
    except READ_ERRORS as error:
        if not is_damage(error):
            with contextlib.suppress(OSError):  # this request may fail, too
                check_unchanged(uri, version)
            raise SourceError(f"{uri}: {type(error).__name__}: {error}. {credentials_hint(uri)}") from error
        check_unchanged(uri, version)  # a mix of two versions looks like damage
        raise


def open_file(uri: str, folders: Folders | None = None) -> Any:
    """Open a file for reading, without a read-ahead cache, which would fetch megabytes for a Parquet footer.

    On a disk it must be a regular file, and really be in one of `folders` (see `local.open_regular`).
    """
    fs, path = filesystem(uri)
    if is_local(fs):
        return open_regular(path, folders)
    return fs.open(path, "rb", **({"cache_type": "none"} if uri.startswith("s3://") else {}))


def read_start(uri: str, size: int) -> bytes:
    """The first `size` bytes of a file, or all of a smaller one."""
    with open_file(uri) as handle:
        end = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        return handle.read(min(size, end))  # Python would allocate `size` bytes for a smaller file, too


def read_within(uri: str, limit: int, folders: Folders | None) -> bytes | None:
    """The content of a file; None, and nothing is read, if that is more than `limit` bytes."""
    with open_file(uri, folders) as handle:
        end = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        return None if end > limit else handle.read(end)


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
