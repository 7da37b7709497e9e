"""Where an image is, and whether it may be fetched from there.

A URI in a catalog is data, and data must not make the job read other files or contact other hosts than the user meant.
So each URI is parsed and compared with the allowed prefixes segment by segment, and so is the target of each redirect.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import unquote

from pipelines.fetching.addresses import is_network, parse_network
from pipelines.reasons import FETCH_TOO_LARGE, URI_INVALID, URI_NOT_ALLOWED, Reason, Reject
from pipelines.storage.uris import printable, redacted, redacted_text
from vista_core import UsageError

SCHEMES = {"http": "http", "https": "https", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "file": "file"}
WEB_PORTS = {"http": 80, "https": 443}
WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
WITH_DOTS = re.compile(
    r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+(?::[0-9]{1,5})?"
)  # a host, unlike the first folder of a path
FILE_URI = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/.*)", re.IGNORECASE | re.DOTALL)  # RFC 8089
BACKSLASHES = re.compile(r"\\+")
ON_A_DRIVE = re.compile(r"\\|[A-Za-z]:\\")  # of Windows
WEB_REST = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
# Backslashes and control characters; the surrogates stand for bytes that are not UTF-8.
FORBIDDEN_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
SHOWN = 200  # characters of a URI in a message
LONGEST_URI = 8192  # characters; servers take no more
MOST_DECODINGS = 8  # of a path that is percent-encoded again and again


@dataclass(frozen=True)
class FetchLimits:
    """How hard to try, and how many images to request at the same time."""

    attempts: int = 3
    longest_retry_after: float = 60.0  # seconds that a host is waited for; one that asks for more counts as failing
    threads: int = 64  # that fetch at the same time, in a worker process
    threads_per_web_host: int = 8
    threads_per_bucket: int = 32
    threads_for_disks: int = 16
    failed_images: int = 5  # in a row that a host failed for: then it counts as down
    down_seconds: float = 60.0
    second_look_seconds: float = 10.0  # until all is tried again where nothing can be fetched, before the run ends
    connect_seconds: float = 5.0
    redirects: int = 5

    def threads_per_host(self, scheme: str) -> int:
        """How many threads may ask one host or bucket, or the disks, at the same time."""
        if scheme in WEB_PORTS:
            return self.threads_per_web_host
        return self.threads_for_disks if scheme == "file" else self.threads_per_bucket


@dataclass(frozen=True)
class FetchRules:
    """What may be fetched, and how. Hashable, since fetchers are cached by it. Raises UsageError for a bad prefix."""

    # Prefixes: s3://bucket/, https://host/path/, /absolute/folder; all else is refused. Also networks, 10.1.0.0/16: the
    # addresses that names of web servers may have beside public ones.
    allowed: tuple[str, ...]
    root: str | None = None  # the folder that relative paths start from; None: that of the file that names them
    max_bytes: int = 20_000_000
    timeout_seconds: float = 30.0  # for one attempt, from connecting to the last byte
    identity: Literal["version", "content", "uri"] = "version"
    limits: FetchLimits = FetchLimits()

    def __post_init__(self) -> None:
        """Refuse prefixes that could never match, before a night of rejects."""
        for prefix in self.allowed:
            try:
                parse_network(prefix) if is_network(prefix) else parse_location(prefix)
            except ValueError as error:
                raise UsageError(f"--allow-prefix {redacted(prefix)}: {error}") from error

    def check_size(self, size: int) -> None:
        """Raise FetchError if an image of this size is too large."""
        if size > self.max_bytes:
            raise FetchError(FETCH_TOO_LARGE, f"it is larger than {self.max_bytes:,} bytes (--max-image-mb)")


class FetchError(Exception):
    """An image could not be fetched. `retry`: another attempt may succeed."""

    def __init__(self, reason: Reason, cause: str, retry: bool = False) -> None:
        super().__init__(reason, cause)
        self.reason, self.cause, self.retry = reason, cause, retry

    def reject(self, uri: str) -> Reject:
        """The reject of a record that names `uri`."""
        return self.reason.reject(printable(f"{redacted(uri)[:SHOWN]}: {redacted_text(self.cause)}"))


class HostError(FetchError):
    """An image could not be fetched for a reason that holds for every image of its host.

    `cure`: a sentence that says what the user can do. `after`: seconds for which the host asks to be left alone.
    """

    def __init__(self, reason: Reason, cause: str, cure: str, after: float = 0.0) -> None:
        super().__init__(reason, cause, retry=True)
        self.cure, self.after = cure, after


class Location(NamedTuple):
    """A parsed URI. Requests are put together from these parts alone, so what is requested is what was checked."""

    scheme: str  # a value of SCHEMES; "file" for local paths
    authority: str  # bucket, or host and port (without the scheme's default port); empty for files
    path: str  # with its leading slash, encoded as in the URI
    query: str = ""  # with its leading question mark

    @property
    def host(self) -> str:
        """The server or bucket, with the scheme; all files of this machine have the same one."""
        return f"{self.scheme}://{self.authority}"

    @property
    def uri(self) -> str:
        """The URI; for files the plain path."""
        return self.path if self.scheme == "file" else f"{self.host}{self.path}{self.query}"

    @property
    def segments(self) -> list[str]:
        """The parts of the path, decoded as a web server does."""
        parts = self.path.split("/")[1:]
        return [unquote(part) for part in parts] if self.scheme in WEB_PORTS else parts

    def is_below(self, prefix: Location) -> bool:
        """True if this is `prefix` itself or in the folder that it names."""
        folder = prefix.segments[: -1 if prefix.path.endswith("/") else None]
        return self[:2] == prefix[:2] and self.segments[: len(folder)] == folder


def check_typed(prefixes: Iterable[str]) -> None:
    """Raise UsageError for a typed prefix that is neither a URI nor a network, and no folder at first sight."""
    for prefix in prefixes:
        if "://" not in prefix and not prefix.startswith(("/", ".", "~")) and not is_network(prefix):
            raise UsageError(f"--allow-prefix {prefix}: https://{prefix} or a folder, as ./{prefix}?")


def absolute_uri(uri: str, named_in: str, rules: FetchRules) -> str:
    """A URI or path, as catalogs have them, made absolute.

    A relative path, also one of Windows, starts from the root of the rules, or else from the folder of the file that
    names it. A `file:` URI becomes a plain path.
    """
    if of_a_file := FILE_URI.fullmatch(uri):
        return unquote(of_a_file[1], errors="surrogateescape")
    if not uri or WITH_SCHEME.match(uri):
        return uri
    if (scheme := scheme_left_out(uri, rules.allowed)) is not None:
        return f"{scheme}://{uri.removeprefix('//')}"
    if uri.startswith("/"):
        return uri
    path = uri if ON_A_DRIVE.match(uri) else BACKSLASHES.sub("/", uri)
    base = named_in.rpartition("/")[0] if rules.root is None else rules.root.rstrip("/")
    return "/".join([base, *(part for part in path.split("/") if part != ".")])


def scheme_left_out(uri: str, allowed: tuple[str, ...]) -> str | None:
    """The scheme of a web URI that has none: `//host/...`, `www.host/...`, or that begins with an allowed host.

    It is https, unless the host is allowed for http only. None for a path.
    """
    host, slash, _ = uri.removeprefix("//").partition("/")
    schemes = {each.scheme for each in parse_prefixes(allowed) if each.authority == host.lower()} & set(WEB_PORTS)
    if not slash or not (schemes or (WITH_DOTS.fullmatch(host) and uri.lower().startswith(("//", "www.")))):
        return None
    return "http" if schemes == {"http"} else "https"


def allowed_location(uri: str, allowed: tuple[str, ...]) -> Location:
    """The location of an absolute URI. Raises FetchError if it is invalid or not below an allowed prefix."""
    try:
        location = parse_location(uri)
    except ValueError as error:
        raise FetchError(URI_INVALID, str(error)) from error
    if not location.path.strip("/") and location.scheme not in WEB_PORTS:
        raise FetchError(URI_INVALID, "it names no file")
    if not any(location.is_below(prefix) for prefix in parse_prefixes(allowed)):
        folder = f"{location.host}/" if location.authority else f"{location.path.rpartition('/')[0]}/"
        raise not_allowed("it is not below an allowed prefix", folder)
    return location


def not_allowed(cause: str, folder: str) -> FetchError:
    """The error for an image outside the allowed prefixes, with the option that would allow it."""
    return FetchError(URI_NOT_ALLOWED, f"{cause}; if images may come from there, give --allow-prefix {folder}")


@functools.lru_cache(maxsize=2)
def parse_prefixes(allowed: tuple[str, ...]) -> tuple[Location, ...]:
    """The locations of the allowed prefixes; those that are networks name none."""
    return tuple(parse_location(prefix) for prefix in allowed if not is_network(prefix))


def parse_location(uri: str) -> Location:
    """Parse an absolute URI. Raises ValueError, with the cause, if it is invalid or if two programs might differ on it.

    A path with `..` is refused however it is encoded: servers decode it once, those behind proxies perhaps twice.
    """
    if len(uri) > LONGEST_URI:
        raise ValueError(f"it has {len(uri):,} characters; at most {LONGEST_URI:,} are possible")
    match = WITH_SCHEME.fullmatch(uri)
    scheme, rest = (SCHEMES.get(match[1].lower()), match[2]) if match else ("file", uri)
    if scheme is None:
        raise ValueError("images are fetched from https://, http://, s3://, gs:// and local paths only")
    if scheme in WEB_PORTS:
        authority, path, query = parse_web_uri(scheme, rest)
    else:
        bucket, slash, key = rest.partition("/")
        authority, path, query = bucket, f"/{key}", ""
        if scheme == "file":
            if bucket or not slash:
                raise ValueError("it is not an absolute path")
            path = "/" + "/".join(part for part in key.split("/") if part not in ("", "."))
        elif not BUCKET.fullmatch(bucket):
            raise ValueError("it names no bucket")
    decoded = path
    for _ in range(MOST_DECODINGS):
        decoded, before = unquote(decoded), decoded
        if decoded == before:
            break
    else:
        raise ValueError(f"it is percent-encoded {MOST_DECODINGS} times or more")
    if FORBIDDEN_CHARACTERS.search(uri + decoded):
        raise ValueError("it has a backslash, a control character, or bytes that are not UTF-8")
    if ".." in re.split("[/;?#]", decoded):  # some servers ignore path parameters: they read `..;x` as `..`
        raise ValueError("it has a `..`")
    return Location(scheme, authority, path, query)


def parse_web_uri(scheme: str, rest: str) -> tuple[str, str, str]:
    """Authority, path and query, of what follows the `//` of an http or https URI."""
    match = WEB_REST.fullmatch(rest)
    host = HOST.fullmatch(match[1]) if match else None
    if match is None or host is None:
        raise ValueError("its host is empty, has a user name, or is not plain ASCII (xn--... for others)")
    port = int(host[2] or WEB_PORTS[scheme])
    authority = host[1].lower() if port == WEB_PORTS[scheme] else f"{host[1].lower()}:{port}"
    return authority, match[2] or "/", f"?{match[3]}" if match[3] else ""
