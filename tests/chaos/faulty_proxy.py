"""A proxy in front of the S3 server that fails like a network or a store, when a test asks for it.

A request's signature covers the Host header, so the proxy passes it on unchanged: the client signed the proxy's name,
and the server verifies that.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

WAIT_SECONDS = 60
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}  # set anew for each connection
XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


@dataclass(frozen=True)
class Request:
    """A request that the proxy received."""

    method: str
    path: str  # including the query
    fault: str = ""  # the kind of fault applied to it, if any

    def matches(self, method: str, path: str) -> bool:
        """True if it has this method ("" matches any) and the regular expression is found in its path."""
        return method in ("", self.method) and re.search(path, self.path) is not None


@dataclass(frozen=True)
class Fault:
    """A kind of failure, and the requests that it applies to."""

    kind: str  # lost, expired, slow or refused
    method: str
    path: str
    once: bool = False


ERRORS = {
    "expired": (403, XML.format(code="ExpiredToken", message="The provided token has expired.")),
    "slow": (503, XML.format(code="SlowDown", message="Please reduce your request rate.")),
}


class FaultyProxy:
    """Forwards requests to the server at `upstream`, except those that match a fault."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.changed = threading.Condition()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.proxy = self

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL that leads to this proxy."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def lose_response(self, path: str, method: str = "PUT") -> None:
        """Execute the next matching request, but close the connection instead of answering."""
        self.begin(Fault("lost", method, path, once=True))

    def expire_credentials(self, path: str = "", method: str = "") -> None:
        """Answer matching requests with 403 ExpiredToken, until `heal`."""
        self.begin(Fault("expired", method, path))

    def slow_down(self, path: str = "", method: str = "") -> None:
        """Answer matching requests with 503 SlowDown, until `heal`."""
        self.begin(Fault("slow", method, path))

    def refuse(self, path: str = "", method: str = "") -> None:
        """Close the connections of matching requests without executing them or answering, until `heal`."""
        self.begin(Fault("refused", method, path))

    def begin(self, fault: Fault) -> None:
        """Apply a fault from now on."""
        with self.changed:
            self.faults.append(fault)

    def heal(self) -> None:
        """Remove all faults."""
        with self.changed:
            self.faults.clear()

    def wait_for(self, method: str, path: str, times: int = 1) -> None:
        """Wait until at least `times` matching requests were answered or failed by a fault."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.matching(method, path)) >= times, WAIT_SECONDS)
        assert arrived, f"{method} {path}: {len(self.matching(method, path))} requests instead of {times}"

    def matching(self, method: str, path: str) -> list[Request]:
        """The requests so far with this method whose path matches the regular expression."""
        return [request for request in self.requests if request.matches(method, path)]

    def suffered(self, kind: str) -> list[Request]:
        """The requests that a fault of this kind was applied to."""
        return [request for request in self.requests if request.fault == kind]

    def fault_of(self, method: str, path: str) -> str:
        """The kind of fault to apply to a request, or "". A fault with `once` is removed when it is used."""
        with self.changed:
            for fault in self.faults:
                if Request(method, path).matches(fault.method, fault.path):
                    if fault.once:
                        self.faults.remove(fault)
                    return fault.kind
            return ""

    def record(self, request: Request) -> None:
        """Note a request that has been handled."""
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    proxy: FaultyProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: the tests make clients disconnect on purpose."""


class Handler(BaseHTTPRequestHandler):
    """A client's connection, with its own connection to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a response's head and body are written separately
    server: Server

    def setup(self) -> None:
        """Set up the client's side. The connection to the server is opened by the first request."""
        super().setup()
        self.connection_upstream: HTTPConnection | None = None

    def finish(self) -> None:
        """Close the connection to the server together with the client's."""
        if self.connection_upstream is not None:
            self.connection_upstream.close()
        with suppress(OSError):
            super().finish()

    def pass_on(self) -> None:
        """Handle one request: forward it, or apply the fault that matches it."""
        proxy, body = self.server.proxy, self.body()
        fault = proxy.fault_of(self.command, self.path)
        try:
            if fault in ERRORS:
                status, text = ERRORS[fault]
                self.answer(status, [("Content-Type", "application/xml")], text.encode())
            elif fault == "refused":
                self.close_connection = True
            else:
                response, content = self.forward(body)
                if fault == "lost":
                    self.close_connection = True
                else:
                    self.answer(response.status, response.getheaders(), content)
        except (OSError, HTTPException):  # the client or the server has disconnected
            self.close_connection = True
        finally:
            proxy.record(Request(self.command, self.path, fault))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    def body(self) -> bytes | None:
        """The request's content, chunked or with a Content-Length. Signed aws-chunked content is passed on as it is."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self.chunks())
        length = self.headers.get("Content-Length")
        return None if length is None else self.rfile.read(int(length))

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a request with chunked transfer encoding."""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def forward(self, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Forward the request and return the response. If the server closed the idle connection, reconnect once."""
        for attempt in range(2):
            if self.connection_upstream is None:
                self.connection_upstream = HTTPConnection(
                    self.server.proxy.upstream.hostname, self.server.proxy.upstream.port
                )
                attempt = 1
            try:
                return self.send(self.connection_upstream, body)
            except (OSError, HTTPException):
                self.connection_upstream.close()
                self.connection_upstream = None
                if attempt:
                    raise
        raise AssertionError("unreachable")

    def send(self, upstream: HTTPConnection, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Send the request unchanged: the request line, the headers in their order, the content."""
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in (*HOP_BY_HOP, "expect"):
                upstream.putheader(name, value)
        if body is not None:
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body)
        response = upstream.getresponse()
        return response, response.read()

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Send a response to the client. For HEAD, pass on the server's Content-Length."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `requests` has every request."""


@contextmanager
def in_front_of(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the server at `upstream` while the context lasts."""
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
