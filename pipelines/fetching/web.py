"""Images on web servers, through aiohttp.

The client runs on an event loop in a thread of its own; the fetcher's threads wait for its results.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import re
import ssl
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias, TypeVar
from urllib.parse import quote, urljoin

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from pipelines.fetching.locations import SHOWN, WEB_PORTS, FetchError, FetchRules, HostError, Location, allowed_location
from pipelines.fetching.resolver import CheckedResolver
from pipelines.reasons import (
    FETCH_FAILED,
    FETCH_FORBIDDEN,
    FETCH_NOT_FOUND,
    FETCH_TIMEOUT,
    URI_INVALID,
    URI_NOT_ALLOWED,
)
from pipelines.storage.uris import redacted

REDIRECTS = {301, 302, 303, 307, 308}
MISSING, FORBIDDEN, BUSY = {404, 410}, {401, 403}, {429, 500, 502, 503, 504}
PAUSED = {429, 503}  # with a Retry-After
WHOLE, PART = 200, 206
FIRST_BYTE = {"Range": "bytes=0-0"}
# What HEAD ends in where only GET is known, or allowed: a signed URL, for one, is signed for GET alone.
HEAD_REFUSED = (FETCH_NOT_FOUND, FETCH_FORBIDDEN, FETCH_FAILED)
UNTRUSTED = (
    "Its certificate must be valid, and of an authority that is known here; name a file of others in SSL_CERT_FILE"
)
NO_TLS = "Check that it speaks https; for plain http, catalog and --allow-prefix must say http://"
UNKNOWN = "Check the host's name, and that the workers can look it up (DNS, or a proxy by HTTPS_PROXY)"
UNREACHABLE = "Check that it is up, and that the workers reach it (firewall, or a proxy by HTTPS_PROXY)"
SILENT = f"{UNREACHABLE}, or raise --fetch-timeout"
LONGEST_HEADER = 64 << 10  # bytes; aiohttp's default of 8 KB is less than some servers send
CLIENT_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)  # ValueError: it is no host name
LOST_CONNECTIONS = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,  # the answer is not HTTP
    HttpProcessingError,  # nor is its body
    OSError,
)
SECONDS = re.compile(r"[0-9]{1,18}")
LENGTH = re.compile(r"(?:bytes [0-9]+-[0-9]+/)?([0-9]{1,18})")  # of Content-Length and Content-Range
SINGLE_DOTS = re.compile(r"/(?:\.(?:/|$))+")
BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
PATH_SAFE = "%/!$&'()*+,;=:@~"  # RFC 3986, beside letters, digits and `-._`
QUERY_SAFE = f"{PATH_SAFE}?"

T = TypeVar("T")
Reader: TypeAlias = Callable[[aiohttp.ClientResponse], Awaitable[T]]


def open_web(rules: FetchRules, resolver: AbstractResolver | None = None) -> Web:
    """A web client with connections of its own, which are closed once nobody refers to it any more.

    Certificates are checked against those of the system (or of SSL_CERT_FILE), and against certifi's, since containers
    often have none. `resolver` looks up host names; default: as this machine does.
    """
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(certifi.where())
    loop = event_loop(rules.limits.threads)
    session = asyncio.run_coroutine_threadsafe(open_session(trusted, rules, resolver), loop).result()
    web = Web(session, loop, rules)
    weakref.finalize(web, lambda: asyncio.run_coroutine_threadsafe(session.close(), loop))
    return web


@functools.cache
def event_loop(lookups: int) -> asyncio.AbstractEventLoop:
    """The event loop that all web clients of this process share, in a thread of its own.

    aiohttp looks up host names in the loop's thread pool. It gets `lookups` threads here: the default is few on a small
    machine, and a few names that can't be resolved would hold up all other hosts.
    """
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(lookups, "web-lookup"))
    threading.Thread(target=loop.run_forever, name="web", daemon=True).start()
    return loop


async def open_session(
    trusted: ssl.SSLContext, rules: FetchRules, resolver: AbstractResolver | None
) -> aiohttp.ClientSession:
    """A client without cookies that asks for uncompressed bytes and uses the proxies of the environment.

    It doesn't limit the number of connections, since the fetcher limits its threads.
    """
    checked = CheckedResolver(resolver or aiohttp.ThreadedResolver(), rules.allowed)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted, limit=0, resolver=checked),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, connect=rules.limits.connect_seconds),  # Web bounds the whole
        trust_env=True,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )


class Web:
    """Reads files of web servers; a transport."""

    def __init__(self, session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop, rules: FetchRules) -> None:
        self.session, self.loop, self.rules = session, loop, rules
        self.without_head: set[str] = set()  # hosts

    def version(self, location: Location) -> str | None:
        """The etag, or else size and time; None where the server gives neither.

        A host whose HEAD fails is asked by GET for the first byte, and later at once, if that works.
        """
        if location.host not in self.without_head:
            try:
                return self.wait_for("HEAD", location, self.read_version)
            except FetchError as error:
                if error.reason not in HEAD_REFUSED or (isinstance(error, HostError) and not error.after):
                    raise
        version = self.wait_for("GET", location, self.read_version, FIRST_BYTE)
        self.without_head.add(location.host)
        return version

    def content(self, location: Location) -> bytes:
        """The body. Raises FetchError if it ends before its Content-Length."""
        return self.wait_for("GET", location, self.read_content)

    def wait_for(self, method: str, location: Location, read: Reader[T], headers: Mapping[str, str] | None = None) -> T:
        """Run a request on the event loop, and wait for its end."""
        return asyncio.run_coroutine_threadsafe(self.request(method, location, read, headers), self.loop).result()

    async def request(
        self, method: str, location: Location, read: Reader[T], headers: Mapping[str, str] | None = None
    ) -> T:
        """What `read` makes of the final response; redirects are followed here, so that each target is checked."""
        limits = self.rules.limits
        try:
            async with asyncio.timeout(self.rules.timeout_seconds):
                for _ in range(limits.redirects + 1):
                    url = request_url(location)
                    async with self.session.request(method, url, headers=headers, allow_redirects=False) as response:
                        target = response.headers.get("Location")
                        if response.status not in REDIRECTS or target is None:
                            return await read(response)
                    location = self.redirected(location, target)
        except TimeoutError as error:
            cause = f"no answer, or not all of it, within {self.rules.timeout_seconds:g} s"
            raise HostError(FETCH_TIMEOUT, cause, SILENT) from error
        except aiohttp.ClientConnectorError as error:
            raise HostError(FETCH_FAILED, root_cause(error), cure(error)) from error
        except CLIENT_ERRORS as error:
            raise FetchError(FETCH_FAILED, root_cause(error), retry=isinstance(error, LOST_CONNECTIONS)) from error
        raise FetchError(FETCH_FAILED, f"it is redirected more than {limits.redirects} times")

    def redirected(self, location: Location, target: str) -> Location:
        """Where a redirect leads. Raises FetchError unless images may be fetched from there."""
        shown = redacted(target if "://" in target else target.partition("?")[0])[:SHOWN]  # often a signed URL
        try:
            found = allowed_location(urljoin(location.uri, target), self.rules.allowed)
        except FetchError as error:
            raise FetchError(error.reason, f"it is redirected to {shown}: {error.cause}") from error
        except ValueError as error:
            raise FetchError(URI_INVALID, f"it is redirected to {shown}: {error}") from error
        if found.scheme not in WEB_PORTS:
            raise FetchError(URI_NOT_ALLOWED, f"it is redirected to {found.uri}, from the web into a store")
        return found

    async def read_version(self, response: aiohttp.ClientResponse) -> str | None:
        """The version that the headers give: the same one whether HEAD or GET was asked, for the whole or a part."""
        if response.method == "GET" and response.status not in {WHOLE, PART, *MISSING, *FORBIDDEN, *BUSY}:
            return None  # it gives no parts, of an empty file for one: the content tells
        self.check(response, WHOLE, PART)
        headers = response.headers
        written = headers.get("Content-Range" if response.status == PART else "Content-Length", "")
        size = LENGTH.fullmatch(written)
        self.rules.check_size(int(size[1]) if size else 0)
        modified = headers.get("Last-Modified")
        return headers.get("ETag") or (modified and f"{size[1] if size else ''}-{modified}")

    async def read_content(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, if it is not too large. aiohttp decompresses it piece by piece, no faster than it is read."""
        self.check(response, WHOLE)
        self.rules.check_size(response.content_length or 0)
        body = bytearray()
        with ended_with_its_connection(response):
            async for chunk in response.content.iter_any():
                body += chunk
                self.rules.check_size(len(body))
        return bytes(body)

    def check(self, response: aiohttp.ClientResponse, *good: int) -> None:
        """Raise FetchError unless the response has a good status."""
        cause = f"the server answered {response.status} {response.reason}"
        if response.status in MISSING:
            raise FetchError(FETCH_NOT_FOUND, cause)
        if response.status in FORBIDDEN:
            raise FetchError(FETCH_FORBIDDEN, cause)
        after = retry_after(response.headers.get("Retry-After", "")) if response.status in PAUSED else 0.0
        if after > 0:
            cause = f"{cause}, and asks to be left alone for {after:g} s"
            raise HostError(FETCH_FAILED, cause, "Wait, or ask its owner to allow more requests", after)
        if response.status not in good:
            raise FetchError(FETCH_FAILED, cause, response.status in BUSY)


@contextmanager
def ended_with_its_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Within this context, a body that is not complete when its connection ends can't be read any further.

    aiohttp closes the connection if a body breaks the rules of HTTP, such as by a negative chunk size, but it leaves
    the reader waiting if that comes after the headers have been read.
    """
    connection, body = response.connection, response.content
    protocol = None if connection is None else connection.protocol
    closed = None if protocol is None else protocol.closed  # None, too, if the connection has ended already

    def end_body(_: object) -> None:
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the body of the answer is cut off or not valid HTTP"))

    if closed is None:
        end_body(None)
        yield
        return
    closed.add_done_callback(end_body)
    try:
        yield
    finally:
        closed.remove_done_callback(end_body)


def request_url(location: Location) -> URL:
    """The URL to request: the checked one, with characters percent-encoded that a URL can't have.

    Escapes stay as they are written. Single dots are removed from the path, as RFC 3986 wants it of clients.
    """
    path = quote(BARE_PERCENT.sub("%25", SINGLE_DOTS.sub("/", location.path)), PATH_SAFE)
    query = quote(BARE_PERCENT.sub("%25", location.query), QUERY_SAFE)
    return URL(f"{location.host}{path}{query}", encoded=True)  # encoded: yarl changes nothing


def user_agent() -> str:
    """The name and version by which this program introduces itself to servers."""
    try:
        return f"vista/{importlib.metadata.version('vista')}"
    except importlib.metadata.PackageNotFoundError:
        return "vista"


def retry_after(header: str) -> float:
    """The seconds to wait that a Retry-After header asks for, as a number or a date; 0 if it has neither."""
    if SECONDS.fullmatch(header):
        return float(header)
    try:
        return (parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0


def cure(error: aiohttp.ClientConnectorError) -> str:
    """What the user can do about a host that no connection can be made to."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UNTRUSTED
    if isinstance(error, aiohttp.ClientSSLError):
        return NO_TLS
    return UNKNOWN if isinstance(error, aiohttp.ClientConnectorDNSError) else UNREACHABLE


def root_cause(error: BaseException) -> str:
    """The error that a client's error was raised from, on one line."""
    cause = error.__cause__ or error
    if isinstance(cause, HttpProcessingError):  # its code would read as the status that the server answered
        return f"the answer is not valid HTTP: {' '.join(cause.message.split())}"
    return " ".join(f"{type(cause).__name__}: {cause}".split())
