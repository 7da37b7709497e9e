"""Fetch images that a record only names, by URI or path, from where the user allows it.

What a catalog names is data, and data must not make the job read other files or ask other hosts than the user meant:
a URI is taken apart and compared with the allowed prefixes part by part, and so is each hop that a server redirects to.
"""

from __future__ import annotations

import functools
import http.client
import importlib
import importlib.metadata
import io
import os
import re
import socket
import stat
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urljoin

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import requests
import urllib3
from aiohttp import ClientError as TransferError
from botocore import exceptions as boto
from requests.adapters import HTTPAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from urllib3.connection import HTTPConnection

from pipelines.records import IMAGE, IMAGE_URI, OBJECT, Reject, alive, replace_column, with_rejects
from pipelines.sources.objects import SourceError, credentials_hint, printable
from vista_core import UsageError

THREADS = 64  # of a worker process
SHARES = {"http": 8, "https": 8, "s3": 32, "gs": 32, "file": 16}  # of them for one host, bucket, or the disks
ATTEMPTS = 3
REDIRECTS = 5
CONNECT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 10.0
SILENT_IMAGES = 5  # without an answer in time, in a row: then the host counts as down
DOWN_SECONDS = 60.0
CHUNK_BYTES = 64 << 10

SCHEMES = {"http": "http", "https": "https", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "file": "file"}
PORTS = {"http": 80, "https": 443}
WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
WEB_REST = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
LENGTH = re.compile(r"[0-9]{1,18}")
NEVER_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")  # the last are bytes that are not UTF-8

MISSING_STATUSES, LOCKED_STATUSES, BUSY_STATUSES = {404, 410}, {401, 403}, {429, 500, 502, 503, 504}
NO_HEAD_STATUSES = {400, 401, 403, 405, 501}  # a signed URL, for one, is signed for GET alone
LOST_CONNECTIONS = (requests.ConnectionError, urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError)
CREDENTIAL_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken"}
CREDENTIAL_CODES |= {"SignatureDoesNotMatch", "TokenRefreshRequired", "RequestTimeTooSkewed", "NotSignedUp"}
CREDENTIAL_CODES |= {"AccountProblem", "AuthorizationHeaderMalformed", "CredentialsNotSupported"}
CREDENTIAL_ERRORS: tuple[type[Exception], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
)
CREDENTIAL_ERRORS += (boto.TokenRetrievalError, boto.SSOError, boto.NoAuthTokenError, boto.ProfileNotFound)

FetchReason = Literal[
    "uri_not_allowed",
    "uri_invalid",
    "fetch_not_found",
    "fetch_forbidden",
    "fetch_timeout",
    "fetch_too_large",
    "fetch_failed",
]
T = TypeVar("T")


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


def identify(
    records: pa.Table, rejects: dict[int, Reject], rules: FetchRules
) -> tuple[pa.Table, dict[int, Reject], list[str | None]]:
    """Before select: what stands for the content of each image that is elsewhere, in the fingerprint.

    None where the image's bytes are there, now if not before. Raises SourceError if a store's credentials don't work.
    """
    places, bad = named_places(records, [row for row in elsewhere(records) if row not in rejects], rules)
    identities: list[str | None] = [None] * len(records)
    contents: dict[int, bytes] = {}
    if rules.identity == "uri":
        found: dict[Place, str | bytes | Reject] = {place: place.uri for place in places.values()}
    else:
        found = fetcher(rules).identities(places.values()) if places else {}
    for row, place in places.items():
        result = found[place]
        if isinstance(result, Reject):
            bad[row] = result
        elif isinstance(result, bytes):
            contents[row] = result
        else:
            identities[row] = result
    return with_images(records, contents), bad | rejects, identities


def fetch(records: pa.Table, rules: FetchRules) -> pa.Table:
    """After select: the bytes of images that are elsewhere; one that can't be had is a reject.

    Raises SourceError if a store's credentials don't work.
    """
    live = alive(records)
    places, rejects = named_places(records, [row for row in elsewhere(records) if live[row]], rules)
    found = fetcher(rules).contents(places.values()) if places else {}
    contents: dict[int, bytes] = {}
    for row, place in places.items():
        result = found[place]
        if isinstance(result, Reject):
            rejects[row] = result
        else:
            contents[row] = result
    return with_rejects(with_images(records, contents), rejects)


def elsewhere(records: pa.Table) -> list[int]:
    """The rows whose image is named but not there."""
    there = pc.or_(pc.is_valid(records[IMAGE]), pc.is_null(records[IMAGE_URI]))
    return [row for row, is_there in enumerate(there.to_pylist()) if not is_there]


def with_images(records: pa.Table, contents: dict[int, bytes]) -> pa.Table:
    """`records` with the images of some rows filled in."""
    if not contents:
        return records
    images = records[IMAGE]
    fetched = pa.array([contents.get(row) for row in range(len(records))], images.type)
    return replace_column(records, IMAGE, fetched if images.null_count == len(images) else pc.coalesce(images, fetched))


def named_places(records: pa.Table, rows: list[int], rules: FetchRules) -> tuple[dict[int, Place], dict[int, Reject]]:
    """Where the images of `rows` are; rejects where nothing may be, or can be."""
    uris = records[IMAGE_URI].cast(pa.binary()).take(pa.array(rows, pa.int64())).to_pylist()
    objects = records[OBJECT].take(pa.array(rows, pa.int64())).to_pylist()
    places, rejects = {}, {}
    for row, uri, named_in in zip(rows, uris, objects, strict=True):
        absolute = absolute_uri(uri.decode("utf-8", "surrogateescape"), named_in or "", rules.root)
        try:
            places[row] = allowed_place(absolute, rules.allowed)
        except FetchError as error:
            rejects[row] = reject(absolute, error)
    return places, rejects


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


def reject(uri: str, error: FetchError) -> Reject:
    """The reject of the record that names `uri`."""
    return Reject("fetch", error.reason, printable(f"{uri[:200]}: {error.cause}")[:500])


@functools.lru_cache(maxsize=2)
def fetcher(rules: FetchRules) -> Fetcher:
    """One a worker process: connections and what is known of hosts outlive a batch."""
    return Fetcher(rules)


class Way(Protocol):
    """How to reach the places of a scheme. Raises FetchError, and SourceError for what is not the image's fault."""

    def version(self, place: Place) -> str | None:
        """What changes when the image does; None where only its content can tell."""

    def content(self, place: Place) -> bytes:
        """The image."""


class Fetcher:
    """Asks many hosts side by side, each with its share of threads; gives up on those that don't answer. Thread-safe.

    Raises SourceError where the driver of an allowed store is missing.
    """

    def __init__(self, rules: FetchRules) -> None:
        self.rules = rules
        self.ways: dict[str, Way] = {}
        for prefix in prefixes(rules.allowed):
            self.ways.setdefault(prefix.scheme, way(prefix.scheme, rules))
        self.lanes = Lanes()
        self.hosts: dict[str, Host] = {}
        self.attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS), wait=pause, retry=retry_if_exception(is_transient), reraise=True
        )

    def identities(self, places: Iterable[Place]) -> dict[Place, str | bytes | Reject]:
        """By place its URI and version; or its content, where that is what identifies it."""
        return self.side_by_side(self.identity, places)

    def contents(self, places: Iterable[Place]) -> dict[Place, bytes | Reject]:
        """By place its content."""
        return self.side_by_side(self.content, places)

    def identity(self, place: Place) -> str | bytes:
        """The URI and version of one, or its content."""
        version = None
        if self.rules.identity == "version":
            version = self.attempts(self.attempt, self.ways[place.scheme].version, place)
        return self.content(place) if version is None else f"{place.uri}\0{version}"

    def content(self, place: Place) -> bytes:
        """The content of one."""
        return self.attempts(self.attempt, self.ways[place.scheme].content, place)

    def attempt(self, call: Callable[[Place], T], place: Place) -> T:
        """One try, unless the host is down."""
        host = self.hosts.setdefault(place.host, Host())
        host.check(place)
        try:
            result = call(place)
        except FetchError as error:
            if error.reason == "fetch_timeout":
                host.was_silent(place)
            raise
        host.answered()
        return result

    def side_by_side(self, call: Callable[[Place], T], places: Iterable[Place]) -> dict[Place, T | Reject]:
        """What `call` returns for each place, once however many records name it."""

        def settled(place: Place) -> T | Reject:
            try:
                return call(place)
            except FetchError as error:
                return reject(place.uri, error)

        futures = {
            place: self.lanes.submit(place.host, SHARES[place.scheme], functools.partial(settled, place))
            for place in dict.fromkeys(places)
        }
        try:
            return {place: future.result() for place, future in futures.items()}
        finally:  # a SourceError ends the run, so the rest needn't be asked
            for future in futures.values():
                future.cancel()


class Lanes:
    """Threads for all hosts, of which one host gets no more than its share; calls beyond that wait without a thread."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, "fetch")
        self.lock = threading.RLock()  # a call that ended at once calls back from within
        self.busy: Counter[str] = Counter()
        self.waiting: defaultdict[str, deque[tuple[Future, Callable]]] = defaultdict(deque)

    def submit(self, host: str, share: int, call: Callable[[], T]) -> Future[T]:
        """Run `call` when it's the host's turn."""
        promise: Future[T] = Future()
        with self.lock:
            self.waiting[host].append((promise, call))
            if self.busy[host] < share:
                self.busy[host] += 1
                self.next(host)
        return promise

    def next(self, host: str) -> None:
        """Start the host's next call, behind those of the others, or return its thread."""
        while self.waiting[host]:
            promise, call = self.waiting[host].popleft()
            if promise.set_running_or_notify_cancel():
                self.threads.submit(self.run, host, promise, call)
                return
        del self.waiting[host]
        self.busy[host] -= 1

    def run(self, host: str, promise: Future[T], call: Callable[[], T]) -> None:
        """Run a call and hand over how it ended; then it's the others' turn."""
        try:
            promise.set_result(call())
        except BaseException as error:
            promise.set_exception(error)
            raise
        finally:
            with self.lock:
                self.next(host)


class Host:
    """Whether a host answers. One that doesn't is left alone for a minute: a million of its images would take weeks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.silent: set[Place] = set()
        self.down_until = 0.0

    def check(self, place: Place) -> None:
        """Raise FetchError while the host counts as down."""
        if time.monotonic() < self.down_until:
            cause = f"{place.host} did not answer in time for {SILENT_IMAGES} images in a row"
            raise FetchError("fetch_timeout", f"{cause}, so it counts as down and is left alone for a minute")

    def was_silent(self, place: Place) -> None:
        """Count an image, once however often it was tried."""
        with self.lock:
            if len(self.silent) < SILENT_IMAGES:
                self.silent.add(place)
            if len(self.silent) == SILENT_IMAGES:
                self.down_until = time.monotonic() + DOWN_SECONDS

    def answered(self) -> None:
        """Forget the silence."""
        with self.lock:
            self.silent.clear()
            self.down_until = 0.0


def way(scheme: str, rules: FetchRules) -> Way:
    """How to reach the places of a scheme."""
    if scheme in PORTS:
        return Web(rules)
    return Disk(rules) if scheme == "file" else Store(scheme, rules)


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    return isinstance(error, FetchError) and error.retry


def pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: what the server asked for, within bounds, or a growing few tenths."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.after if isinstance(error, FetchError) else 0.0
    return max(wait_exponential_jitter(0.2, 2.0, jitter=0.2)(state), min(asked, RETRY_AFTER_SECONDS))


def check_size(size: int, rules: FetchRules) -> None:
    """Raise FetchError for more than may be fetched."""
    if size > rules.max_bytes:
        raise FetchError("fetch_too_large", f"it is larger than {rules.max_bytes:,} bytes (--max-image-mb)")


class Disk:
    """Files of this machine."""

    def __init__(self, rules: FetchRules) -> None:
        self.rules = rules

    def version(self, place: Place) -> str:
        """Size and time of modification."""
        with self.opened(place) as (_, info):
            return f"{info.st_size}-{info.st_mtime_ns}"

    def content(self, place: Place) -> bytes:
        """The file, no further than it was when it was opened."""
        with self.opened(place) as (file, info):
            return file.read(info.st_size)

    @contextmanager
    def opened(self, place: Place) -> Iterator[tuple[io.FileIO, os.stat_result]]:
        """A regular file. A link may lead to an allowed folder only: links come in archives, which are data, too."""
        real = os.path.realpath(place.path)
        folders = (os.path.realpath(prefix.path) for prefix in prefixes(self.rules.allowed) if prefix.scheme == "file")
        if not any(Path(real).is_relative_to(folder) for folder in folders):
            cause = f"it is a link to {real}, not below an allowed prefix"
            raise FetchError("uri_not_allowed", not_allowed(cause, f"{Path(real).parent}/"))
        try:
            # Opening a FIFO would wait for a writer.
            with closing(io.FileIO(real, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))) as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise FetchError("fetch_failed", "it is not a regular file")
                check_size(info.st_size, self.rules)
                yield file, info
        except OSError as error:
            reasons: dict[type, FetchReason] = {
                FileNotFoundError: "fetch_not_found",
                NotADirectoryError: "fetch_not_found",
                PermissionError: "fetch_forbidden",
            }
            raise FetchError(reasons.get(type(error), "fetch_failed"), error.strerror or str(error)) from error


class Store:
    """Objects of S3 or GCS, through fsspec. Raises SourceError if its driver is not installed."""

    def __init__(self, scheme: str, rules: FetchRules) -> None:
        self.rules = rules
        # What s3fs and gcsfs let through: some translated to OSError, some of their clients' own.
        self.errors: tuple[type[Exception], ...] = (
            OSError,
            boto.BotoCoreError,
            TransferError,
            ValueError,
            RuntimeError,
        )
        self.credential_errors = CREDENTIAL_ERRORS
        options: dict[str, Any] = {}
        if scheme == "s3":
            config: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": SHARES["s3"]}
            config |= {"connect_timeout": min(CONNECT_SECONDS, rules.timeout_seconds)}
            config |= {"read_timeout": rules.timeout_seconds}
            options = {"config_kwargs": config}
        try:
            self.fs = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
            if scheme == "gs":
                self.errors += (importlib.import_module("gcsfs.retry").HttpError,)
                self.credential_errors += (importlib.import_module("google.auth.exceptions").GoogleAuthError,)
        except ImportError as error:
            driver = {"s3": "s3fs", "gs": "gcsfs"}[scheme]
            raise SourceError(f"{scheme}:// images cannot be fetched: {error}. Run: pip install {driver}") from error
        self.fs.retries = 1  # this module's are counted in attempts of bounded time

    def version(self, place: Place) -> str | None:
        """The etag. None for a folder, and where it is refused: an answer to HEAD has no room for the cause."""
        try:
            info = self.fs.info(self.name(place), timeout=self.rules.timeout_seconds)
        except (*self.errors, *self.credential_errors) as error:
            if status_code(error) in NO_HEAD_STATUSES:
                return None
            raise self.fault(place, error) from error
        check_size(info["size"], self.rules)
        return info.get("ETag") or info.get("etag")

    def content(self, place: Place) -> bytes:
        """The object, or as much of it as shows that it is too large."""
        end = self.rules.max_bytes + 1
        try:
            content = self.fs.cat_file(self.name(place), start=0, end=end, timeout=self.rules.timeout_seconds)
        except (*self.errors, *self.credential_errors) as error:
            if status_code(error) == 416:  # an empty object has no first byte
                return b""
            raise self.fault(place, error) from error
        check_size(len(content), self.rules)
        return content

    def name(self, place: Place) -> str:
        """The place as fsspec names it."""
        return f"{place.authority}{place.path}"

    def fault(self, place: Place, error: Exception) -> FetchError | SourceError:
        """What an error means: that the image can't be had, or that nothing can with these credentials."""
        cause, status = f"{type(error).__name__}: {error}".rstrip(".: "), status_code(error)
        if isinstance(error, self.credential_errors) or error_code(error) in CREDENTIAL_CODES or status == 401:
            return SourceError(f"{place.uri}: {cause}. {credentials_hint(place.uri)}")
        if isinstance(error, FileNotFoundError):
            return FetchError("fetch_not_found", f"there is no such object ({cause})")
        if isinstance(error, PermissionError) or status == 403:
            return FetchError("fetch_forbidden", cause)
        if isinstance(error, TimeoutError | boto.ReadTimeoutError | boto.ConnectTimeoutError):
            return FetchError("fetch_timeout", f"no answer within {self.rules.timeout_seconds:g} s", retry=True)
        return FetchError("fetch_failed", cause, retry=status is None or status in BUSY_STATUSES)


def error_code(error: Exception) -> str | None:
    """What S3 calls an error."""
    response = getattr(error.__cause__ or error, "response", None)
    return response["Error"].get("Code") if isinstance(response, dict) else None


def status_code(error: Exception) -> int | None:
    """The HTTP status behind a store's error; None where there was no answer."""
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, dict):
        return response["ResponseMetadata"]["HTTPStatusCode"]
    if str(error).startswith("Forbidden: "):  # all that gcsfs says of it
        return 403
    code = str(getattr(error, "code", None))
    return int(code) if code.isdecimal() else None


class Session(requests.Session):
    """Follows no redirects, and so doesn't read the whole of their bodies, as requests does even if told not to."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None that requests should see."""


class Web:
    """Files of HTTP servers."""

    def __init__(self, rules: FetchRules) -> None:
        self.rules = rules
        self.session = Session()
        self.session.headers.update({"User-Agent": agent(), "Accept-Encoding": "identity"})
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in PORTS:
            self.session.mount(f"{scheme}://", TimedAdapter(THREADS, SHARES[scheme]))

    def version(self, place: Place) -> str | None:
        """The etag, or time and size; None where the server tells neither, or answers no HEAD."""
        with self.answer("HEAD", place) as response:
            if response.status_code in NO_HEAD_STATUSES:
                return None
            self.check(response)
            headers = response.headers
            modified = headers.get("Last-Modified")
            return headers.get("ETag") or (modified and f"{headers.get('Content-Length', '')}-{modified}")

    def content(self, place: Place) -> bytes:
        """The body. One that ends before its Content-Length is a FetchError."""
        with self.answer("GET", place) as response:
            self.check(response)
            body = bytearray()
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=True):
                body += chunk
                check_size(len(body), self.rules)
            return bytes(body)

    @contextmanager
    def answer(self, method: str, place: Place) -> Iterator[requests.Response]:
        """The answer to a request, its body still to be read, after redirects within what is allowed."""
        deadline = time.monotonic() + self.rules.timeout_seconds
        at = place
        try:
            for _ in range(REDIRECTS + 1):
                left = max(deadline - time.monotonic(), 0.001)
                timeout = urllib3.Timeout(total=left, connect=min(CONNECT_SECONDS, left), read=left)
                options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": timeout}
                with self.session.request(method, at.uri, **options) as response:
                    if not response.is_redirect:
                        yield response
                        return
                at = self.hop(at, response.headers["Location"])
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
                cause = f"no answer, or not all of it, within {self.rules.timeout_seconds:g} s"
                raise FetchError("fetch_timeout", cause, retry=True) from error
            raise FetchError("fetch_failed", root_cause(error), retry=isinstance(error, LOST_CONNECTIONS)) from error
        raise FetchError("fetch_failed", f"it is redirected more than {REDIRECTS} times")

    def hop(self, at: Place, location: str) -> Place:
        """Where a redirect leads to."""
        target = location.encode("latin-1").decode("utf-8", "surrogateescape")  # http.client takes headers for Latin-1
        try:
            found = allowed_place(urljoin(at.uri, target), self.rules.allowed)
        except FetchError as error:
            raise FetchError(error.reason, f"it is redirected to {target[:200]}: {error.cause}") from error
        except ValueError as error:
            raise FetchError("uri_invalid", f"it is redirected to {target[:200]}: {error}") from error
        if found.scheme not in PORTS:
            raise FetchError("uri_not_allowed", f"it is redirected to {found.uri}, from the web into a store")
        return found

    def check(self, response: requests.Response) -> None:
        """Raise FetchError for an answer that is no image."""
        status = response.status_code
        cause = f"the server answered {status} {response.reason}"
        if status in MISSING_STATUSES:
            raise FetchError("fetch_not_found", cause)
        if status in LOCKED_STATUSES:
            raise FetchError("fetch_forbidden", cause)
        if status != 200:
            after = retry_after(response.headers.get("Retry-After", ""))
            raise FetchError("fetch_failed", cause, status in BUSY_STATUSES, after)
        length = LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        check_size(int(length[0]) if length else 0, self.rules)


def agent() -> str:
    """How this program names itself to servers."""
    try:
        return f"vista/{importlib.metadata.version('vista')}"
    except importlib.metadata.PackageNotFoundError:
        return "vista"


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header, a number or a date, asks to wait; 0 for none."""
    if LENGTH.fullmatch(header):
        return float(header)
    try:
        return (parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0


def root_cause(error: BaseException) -> str:
    """What lies under the wrappings of requests and urllib3."""
    while inner := next(
        (arg for arg in (getattr(error, "reason", None), *error.args) if isinstance(arg, Exception)), None
    ):
        error = inner
    return f"{type(error).__name__}: {error}"


class TimedReader(io.RawIOBase):
    """A socket's bytes until its timeout from now on, while a socket itself counts anew after each byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.bytes = sock, sock.makefile("rb", buffering=0)
        self.deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As the socket does."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.bytes.readinto(buffer)

    def close(self) -> None:
        """Let go of the socket."""
        self.bytes.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response, headers and body, that has to arrive within the socket's timeout as a whole."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(TimedReader(sock))


@functools.cache
def timed(connection: type[HTTPConnection]) -> type[HTTPConnection]:
    """The same kind of connection, to a host or through a proxy, with such responses."""
    if connection.response_class is TimedResponse:
        return connection
    return type(f"Timed{connection.__name__}", (connection,), {"response_class": TimedResponse})


class TimedAdapter(HTTPAdapter):
    """Makes the timeout of a request mean the whole of its response."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> urllib3.HTTPConnectionPool:
        """As requests does."""
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = timed(pool.ConnectionCls)
        return pool
