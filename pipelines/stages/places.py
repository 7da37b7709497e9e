"""Where an image is, and whether it may be fetched from there.

What a catalog names is data, and data must not make the job read other files or ask other hosts than the user meant:
a URI is taken apart and compared with the allowed prefixes part by part, and so is each hop that a server redirects to.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import unquote

from vista_core import UsageError

SCHEMES = {"http": "http", "https": "https", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "file": "file"}
PORTS = {"http": 80, "https": 443}
WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
WEB_REST = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
NEVER_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")  # the last are bytes that are not UTF-8

FetchReason = Literal[
    "uri_not_allowed",
    "uri_invalid",
    "fetch_not_found",
    "fetch_forbidden",
    "fetch_timeout",
    "fetch_too_large",
    "fetch_failed",
]


@dataclass(frozen=True)
class FetchRules:
    """What may be fetched, and how. Raises UsageError for a prefix that is none."""

    allowed: tuple[str, ...]  # prefixes: s3://bucket/, https://host/path/, /absolute/folder; data can name nothing else
    root: str | None  # what relative paths start from; None: the folder of the object that names them
    max_bytes: int
    timeout_seconds: float  # for one attempt, from connecting to the last byte
    identity: Literal["version", "content", "uri"]

    def __post_init__(self) -> None:
        """Refuse prefixes that would never match, before a night is spent on rejects."""
        for prefix in self.allowed:
            try:
                place_at(prefix)
            except ValueError as error:
                raise UsageError(f"--allow-prefix {prefix}: {error}") from error


class FetchError(Exception):
    """An image that can't be had: `reason` for the reject, `cause` for people; `retry` if it might work later."""

    def __init__(self, reason: FetchReason, cause: str, retry: bool = False, after: float = 0.0) -> None:
        super().__init__(reason, cause)
        self.reason, self.cause = reason, cause
        self.retry, self.after = retry, after


class Place(NamedTuple):
    """Where something is, in parts that can be compared. What is requested is put together from these alone."""

    scheme: str  # a value of SCHEMES; "file" for local paths
    authority: str  # host and port (unless it's the usual one), or bucket; empty for files
    path: str  # from its first slash on, as it was written
    query: str = ""

    @property
    def host(self) -> str:
        """Whom all that is asked of this place is asked."""
        return f"{self.scheme}://{self.authority}"

    @property
    def uri(self) -> str:
        """The whole; for files the plain path."""
        return self.path if self.scheme == "file" else f"{self.host}{self.path}{self.query}"

    @property
    def segments(self) -> list[str]:
        """The path's parts, as servers decode them."""
        parts = self.path.split("/")[1:]
        return [unquote(part) for part in parts] if self.scheme in PORTS else parts

    def is_below(self, prefix: Place) -> bool:
        """Whether this is `prefix` or in the folder that it names."""
        folder = prefix.segments[: -1 if prefix.path.endswith("/") else None]
        return self[:2] == prefix[:2] and self.segments[: len(folder)] == folder


def absolute_uri(uri: str, named_in: str, root: str | None) -> str:
    """`uri`, if it is a relative path, from `root` or the folder of the object that names it."""
    if not uri or uri.startswith("/") or WITH_SCHEME.match(uri):
        return uri
    base = named_in.rpartition("/")[0] if root is None else root.rstrip("/")
    return "/".join([base, *(part for part in uri.split("/") if part != ".")])


def allowed_place(uri: str, allowed: tuple[str, ...]) -> Place:
    """The place that an absolute URI names. Raises FetchError for one that is none, or not below an allowed prefix."""
    try:
        found = place_at(uri)
    except ValueError as error:
        raise FetchError("uri_invalid", str(error)) from error
    if not found.path.strip("/") and found.scheme not in PORTS:
        raise FetchError("uri_invalid", "it names no file")
    if not any(found.is_below(prefix) for prefix in prefixes(allowed)):
        folder = f"{found.host}/" if found.authority else f"{found.path.rpartition('/')[0]}/"
        raise FetchError("uri_not_allowed", not_allowed("it is not below an allowed prefix", folder))
    return found


def not_allowed(cause: str, folder: str) -> str:
    """Why something is not fetched, and how it would be."""
    return f"{cause}; if images may come from there, give --allow-prefix {folder}"


@functools.lru_cache(maxsize=2)
def prefixes(allowed: tuple[str, ...]) -> tuple[Place, ...]:
    """The places below which all may be fetched."""
    return tuple(map(place_at, allowed))


def place_at(uri: str) -> Place:
    """`uri`, an absolute one, taken apart. Raises ValueError, saying why, for what two readers might read in two ways.

    A path that climbs is refused however it is encoded: servers decode once, those behind proxies perhaps twice.
    """
    match = WITH_SCHEME.fullmatch(uri)
    scheme, rest = (SCHEMES.get(match[1].lower()), match[2]) if match else ("file", uri)
    if scheme is None:
        raise ValueError("images are fetched from https://, http://, s3://, gs:// and local paths only")
    if scheme in PORTS:
        authority, path, query = web_parts(scheme, rest)
    else:
        bucket, slash, key = rest.partition("/")
        authority, path, query = bucket, f"/{key}", ""
        if scheme == "file":
            if bucket or not slash:
                raise ValueError("it is not an absolute path")
            path = "/" + "/".join(part for part in key.split("/") if part not in ("", "."))
        elif not BUCKET.fullmatch(bucket):
            raise ValueError("it names no bucket")
    decoded, before = path, ""
    while decoded != before:
        decoded, before = unquote(decoded), decoded
    if NEVER_IN_A_NAME.search(uri + decoded):
        raise ValueError("it has a backslash, a control character, or bytes that are not UTF-8")
    if ".." in re.split("[/;?#]", decoded):  # some servers cut path parameters off: `..;x` climbs as `..` does
        raise ValueError("it has a `..`")
    return Place(scheme, authority, path, query)


def web_parts(scheme: str, rest: str) -> tuple[str, str, str]:
    """Host with port, path, and query with its mark, of an http URI behind its `//`."""
    match = WEB_REST.fullmatch(rest)
    host = HOST.fullmatch(match[1]) if match else None
    if match is None or host is None:
        raise ValueError("its host is empty, has a user name, or is not plain ASCII (xn--... for others)")
    port = int(host[2] or PORTS[scheme])
    authority = host[1].lower() if port == PORTS[scheme] else f"{host[1].lower()}:{port}"
    return authority, match[2] or "/", f"?{match[3]}" if match[3] else ""
