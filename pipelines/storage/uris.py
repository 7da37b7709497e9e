"""URIs: how files are named, compared, ordered and printed; and the fsspec file system that a URI belongs to."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.utils import glob_translate

from vista_core import UsageError

SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", re.I)
S3, WEB = {"s3", "s3a"}, {"http", "https"}
BUCKETS = S3 | {"gs", "gcs"}
STORES = {*BUCKETS}  # in which sources are
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
FRAGMENT_NUMBER = re.compile(r"(.*)#(\d+)", re.DOTALL)

HIDDEN = "***"
WITH_SCHEME = re.compile(r"(?!file:)([a-z][a-z0-9+.-]*://)([^/?#]*@|)([^?#]*)(.*)", re.I | re.DOTALL)
# Secret keys of S3 may have slashes. In a store `?` may be part of a name, or a wildcard: only what looks like
# parameters at the end is taken for such.
IN_A_STORE = re.compile(r"((?:s3a?|gs|gcs)://)([^/?#@:]*:[^?#@]*@|[^/?#]*@|)(.*?)([?#][^/=]*=.*|)", re.I | re.DOTALL)
VALUE = re.compile(r"(?<=[?&#;])([^=&#;]*=)?[^&#;]+")
IN_A_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]*[^\s\"'<>:,.;)]", re.I)
SECRET_NAME = r"[\w.-]*(?:signature|credential|secret|token|passw|api_?key|accesskey|auth(?!or))[\w.-]*|sig|key|pwd"
SECRET = re.compile(rf"(?<![\w.-])({SECRET_NAME})=[^\s&#\"'<>]*[^\s&#\"'<>:,.;)]", re.I)


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for `uri`, and the path in it. Listings are never cached, since a run needs today's.

    Like `fsspec.url_to_fs`, which however takes `::` in a name for a chain of file systems.
    """
    kind = fsspec.get_filesystem_class(uri.partition("://")[0] if "://" in uri else "file")
    return kind(**kind._get_kwargs_from_urls(uri), use_listings_cache=False), kind._strip_protocol(uri)


def absolute(uri: str) -> str:
    """`uri` as every worker understands it: local paths made absolute, without `..`; `file://` dropped.

    Raises UsageError for a URI with credentials, and for what can't be reached by it.
    """
    if has_credentials(uri):
        raise UsageError(
            f"{redacted(uri)} has credentials in it, which others can read in the list of processes, the shell's "
            "history and logs. Give them by the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
            "or GOOGLE_APPLICATION_CREDENTIALS"
        )
    if uri[:5].lower() == "file:":
        return absolute_path(local_path(uri))
    if "://" in uri:
        scheme, _, rest = uri.partition("://")
        if scheme.lower() in S3:
            check_endpoint()
        return f"{scheme.lower()}://{rest.rstrip('/')}"
    if (start := SCHEME.match(uri)) and not os.path.lexists(uri):
        raise UsageError(f"{uri}: a URI has two slashes: {start[1].lower()}://{uri[start.end() :]}")
    return absolute_path(uri)


def local_path(uri: str) -> str:
    """The path of a `file:` URI, which may be percent-encoded (RFC 8089), or not if somebody typed it."""
    path = re.sub(r"^file:(//(localhost(?=/))?)?", "", uri, flags=re.I)
    return path if os.path.lexists(path) else unquote(path, errors="surrogateescape")


def absolute_path(path: str) -> str:
    """A local path made absolute. A `..` leads to the folder above the one that a link before it leads to."""
    found = Path(re.sub("^//+", "/", path))
    with contextlib.suppress(RuntimeError):  # there is no such user
        found = found.expanduser()
    parts = found.absolute().parts
    end = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    return str(Path(*parts[:end]).resolve().joinpath(*parts[end:]) if end else Path(*parts))


def check_endpoint() -> None:
    """Raise UsageError if a variable for S3 servers is no URL, since Lance would crash."""
    for name in ENDPOINTS:
        if (url := os.environ.get(name)) and not re.match("https?://.", url, re.I):
            raise UsageError(f"{name} must be a URL, such as https://{redacted(url)} or http://{redacted(url)}")


def check_readable(uri: str, stores: Container[str] = STORES) -> None:
    """Raise UsageError, with the cure, if a source is neither on a disk nor in one of the `stores`."""
    scheme, separator, place = uri.partition("://")
    if not separator:
        return
    if scheme not in stores:
        what, cure = f"sources are read from local paths, s3:// and gs:// only, not from {scheme}://", "copy them there"
        if scheme in WEB:
            what, cure = "sources are not read from web servers", "download the files, or copy them to object storage"
        elif scheme == "hf":
            cure = "download it (`hf download --repo-type dataset NAME --local-dir FOLDER`), and give the folder"
        raise UsageError(f"--source {uri}: {what}; {cure}")
    if scheme in BUCKETS and place[:1] in ("", "/"):
        raise UsageError(f"--source {uri}: it names no bucket, as {scheme}://BUCKET/FOLDER does")


def file_uri(fs: Any, path: str) -> str:
    """The URI by which users know a file of a file system; for local files the plain path."""
    return str(fs.unstrip_protocol(path)).removeprefix("file://")


def printable(uri: str) -> str:
    """`uri` as a table can store it: bytes of a file name that are not UTF-8 become backslash escapes."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listing_order(name: str) -> tuple[str, int, str]:
    """The sort key of a source file's name, by which listings are sorted and duplicate ids are resolved.

    Names sort as strings, but the fragments of a Lance table (`URI#12`) by their numbers.
    """
    fragment = FRAGMENT_NUMBER.fullmatch(name)
    return (fragment[1], int(fragment[2]), name) if fragment else (name, -1, name)


def before_magic(path: str) -> str:
    """The folder before the first wildcard of a glob."""
    folder, slash, _ = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")
    return folder or slash


def bucket_or_folder(uri: str) -> str:
    """The bucket or the local folder of a source, in which its external images may be.

    For a file in the root of the file system it is the file: a catalog must not make the job read all other files.
    """
    fs, path = filesystem(uri)
    if "://" in uri:
        return str(fs.unstrip_protocol(path.partition("/")[0]))
    if fsspec.core.has_magic(path) and not fs.exists(path):
        folder = before_magic(path)
    else:
        folder = path if fs.isdir(path) and not path.endswith(".lance") else path.rpartition("/")[0]
    return path if folder in ("", "/") else folder


def folders_of(name: str) -> Iterator[str]:
    """The folders that a file is in, the innermost first."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def is_named_by(uri: str, name: str) -> bool:
    """True if a file of this (printable) name would be listed for `uri`: a folder, one file, or a glob."""
    uri = printable(uri)
    if fsspec.core.has_magic(uri) and re.fullmatch(glob_translate(uri), name):
        return True
    return name == uri or name.startswith((uri.rstrip("/") + "/", uri + "#"))  # `#` for fragments of a Lance table


def redacted(uri: str) -> str:
    """`uri` as logs, tables and messages may have it: without user name and password, and without values of parameters.

    All values are hidden, since any of them may be what a server takes for a password. Local paths are not changed.
    """
    parts = parts_of(uri)
    if parts is None:
        return uri
    scheme, user, place, parameters = parts
    hidden = VALUE.sub(lambda value: f"{value[1] or ''}{HIDDEN}", parameters)
    return f"{scheme}{f'{HIDDEN}@' if user else ''}{place}{hidden}"


def redacted_text(text: str) -> str:
    """A message, perhaps of a library, with each URI in it redacted, and the values of secret parameters."""
    return SECRET.sub(rf"\1={HIDDEN}", IN_A_TEXT.sub(lambda uri: redacted(uri[0]), text))


def has_credentials(uri: str) -> bool:
    """True if a URI has a user name or password, or a parameter whose name says that it is secret."""
    parts = parts_of(uri)
    return parts is not None and (parts[1] != "" or SECRET.search(parts[3]) is not None)


def parts_of(uri: str) -> tuple[str, ...] | None:
    """Scheme, user and password, what follows them, and parameters of a URI; None for a local path."""
    match = IN_A_STORE.fullmatch(uri) or WITH_SCHEME.fullmatch(uri)
    return None if match is None else match.groups()
