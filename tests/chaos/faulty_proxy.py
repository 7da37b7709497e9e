"""A proxy before the S3 server that fails as networks and stores do, when a test says so.

The requests' signatures cover the Host header, which therefore passes unchanged: the server checks against what the
client named, and that is the proxy.
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
OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    method: str
    path: str  # with the query
    fault: str = ""  # what was done to it, if anything

    def matches(self, method: str, path: str) -> bool:
        """Whether it has this method ("" for any) and a path in which the regular expression is found."""
        return method in ("", self.method) and re.search(path, self.path) is not None


@dataclass(frozen=True)
class Fault:
    """What happens to matching requests."""

    kind: str  # lost, expired, slow or refused
    method: str
    path: str
    once: bool = False


ERRORS = {
    "expired": (403, XML.format(code="ExpiredToken", message="The provided token has expired.")),
    "slow": (503, XML.format(code="SlowDown", message="Please reduce your request rate.")),
}


class FaultyProxy:
    """Passes requests on to the server at `upstream`, but for those that a fault matches."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.changed = threading.Condition()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.proxy = self

    @property
    def endpoint(self) -> str:
        """What AWS_ENDPOINT_URL is to be."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def lose_response(self, path: str, method: str = "PUT") -> None:
        """The next matching request is executed, and its answer never arrives: the connection closes."""
        self.begin(Fault("lost", method, path, once=True))

    def expire_credentials(self, path: str = "", method: str = "") -> None:
        """Matching requests are answered as those of an expired token, until `heal`."""
        self.begin(Fault("expired", method, path))

    def slow_down(self, path: str = "", method: str = "") -> None:
        """Matching requests are answered 503 SlowDown, until `heal`."""
        self.begin(Fault("slow", method, path))

    def refuse(self, path: str = "", method: str = "") -> None:
        """The connections of matching requests are closed unanswered, and nothing is executed, until `heal`."""
        self.begin(Fault("refused", method, path))

    def begin(self, fault: Fault) -> None:
        """A fault, from now on."""
        with self.changed:
            self.faults.append(fault)

    def heal(self) -> None:
        """No more faults."""
        with self.changed:
            self.faults.clear()

    def wait_for(self, method: str, path: str, times: int = 1) -> None:
        """Wait until so many matching requests were answered, or suffered their fault."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.matching(method, path)) >= times, WAIT_SECONDS)
        assert arrived, f"{method} {path}: {len(self.matching(method, path))} requests, not {times}"

    def matching(self, method: str, path: str) -> list[Request]:
        """The requests so far with this method and a path in which the regular expression is found."""
        return [request for request in self.requests if request.matches(method, path)]

    def suffered(self, kind: str) -> list[Request]:
        """The requests that a fault of this kind befell."""
        return [request for request in self.requests if request.fault == kind]

    def fault_of(self, method: str, path: str) -> str:
        """The kind of the fault that a request is to suffer; one that strikes once is used up."""
        with self.changed:
            for fault in self.faults:
                if Request(method, path).matches(fault.method, fault.path):
                    if fault.once:
                        self.faults.remove(fault)
                    return fault.kind
            return ""

    def record(self, request: Request) -> None:
        """A request is done with."""
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    proxy: FaultyProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One client's connection, and one to the server for it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer's head and body are two writes
    server: Server

    def setup(self) -> None:
        """As it is, with the connection to the server to come."""
        super().setup()
        self.connection_upstream: HTTPConnection | None = None

    def finish(self) -> None:
        """The other connection ends with the client's."""
        if self.connection_upstream is not None:
            self.connection_upstream.close()
        with suppress(OSError):
            super().finish()

    def pass_on(self) -> None:
        """One request: forward it, or do to it what the test wants."""
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
        except (OSError, HTTPException):  # one of the two others is gone
            self.close_connection = True
        finally:
            proxy.record(Request(self.command, self.path, fault))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    def body(self) -> bytes | None:
        """The request's content, whichever way its end is marked; what of it is signed (aws-chunked) is in it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self.chunks())
        length = self.headers.get("Content-Length")
        return None if length is None else self.rfile.read(int(length))

    def chunks(self) -> Iterator[bytes]:
        """The pieces of a content whose length was not known beforehand."""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def forward(self, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """The server's answer; a connection that it closed meanwhile is opened again."""
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
        """The request as it came: its line, its headers in their order, its content."""
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in (*OF_ONE_CONNECTION, "expect"):
                upstream.putheader(name, value)
        if body is not None:
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body)
        response = upstream.getresponse()
        return response, response.read()

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """To the client; the length of what a HEAD asks about is the server's word."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in OF_ONE_CONNECTION or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """The record says it."""


@contextmanager
def before(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at `upstream` for as long as the context lasts."""
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
