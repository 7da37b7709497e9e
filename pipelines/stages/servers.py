"""How images are got from disks, object stores and web servers: each attempt bounded in time and in bytes."""

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
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin

import fsspec
import requests
import urllib3
from aiohttp import ClientError as TransferError
from botocore import exceptions as boto
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from pipelines.sources.objects import SourceError, credentials_hint
from pipelines.stages.places import (
    PORTS,
    FetchError,
    FetchReason,
    FetchRules,
    Place,
    allowed_place,
    not_allowed,
    prefixes,
)

THREADS = 64  # that ask at once, in a worker process
SHARES = {"http": 8, "https": 8, "s3": 32, "gs": 32, "file": 16}  # of them for one host, bucket, or the disks
REDIRECTS = 5
CONNECT_SECONDS = 5.0
CHUNK_BYTES = 64 << 10

LENGTH = re.compile(r"[0-9]{1,18}")
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


class Way(Protocol):
    """How to reach the places of a scheme. Raises FetchError, and SourceError for what is not the image's fault."""

    def version(self, place: Place) -> str | None:
        """What changes when the image does; None where only its content can tell."""

    def content(self, place: Place) -> bytes:
        """The image."""


def way(scheme: str, rules: FetchRules) -> Way:
    """How to reach the places of a scheme."""
    if scheme in PORTS:
        return Web(rules)
    return Disk(rules) if scheme == "file" else Store(scheme, rules)


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
