"""Stores that fail when told to: an S3 server, and a file system of fsspec."""

from __future__ import annotations

import http.client
import io
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, NamedTuple

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.storage.uris import STORES
from tests.s3 import S3

EVERY_KIND = ("HEAD", "GET", "READ")  # READ is a GET of a part of an object


class Request(NamedTuple):
    """A request for a part of an object."""

    name: str
    start: int
    end: int  # inclusive

    @property
    def size(self) -> int:
        return self.end - self.start + 1


class Proxy:
    """A proxy of the S3 server that records requests, and fails if told to.

    It has its own bucket, since Lance caches clients by endpoint and bucket.
    """

    def __init__(self, s3: S3) -> None:
        self.s3, self.bucket = s3, f"b{uuid.uuid4().hex}"
        self.requests: list[Request] = []  # for parts of objects
        self.failure, self.failing = "", EVERY_KIND
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def fail(self, failure: str, *kinds: str) -> None:
        """From now on answer requests of these kinds with a status, or with half of the answer if it is "cut"."""
        self.failure, self.failing = failure, kinds or EVERY_KIND

    @contextmanager
    def serve(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        yield
        self.server.shutdown()
        thread.join()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *args) -> None:
        pass

    def handle_request(self) -> None:
        request = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        start, dash, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if dash and start and end:
            self.proxy.requests.append(Request(self.path, int(start), int(end)))
        kind = "READ" if dash and self.command == "GET" else self.command
        failure = self.proxy.failure if kind in self.proxy.failing else ""
        if failure.isdigit():
            self.send_response(int(failure))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server = http.client.HTTPConnection(self.proxy.s3.endpoint.removeprefix("http://"))
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            server.putheader(name, value)
        server.endheaders(request)
        answer = server.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.close_connection = failure == "cut"
        self.wfile.write(content[: len(content) // 2] if self.close_connection else content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815


class FaultyFileSystem(MemoryFileSystem):
    """Files in memory, `faulty://` for fsspec, whose reads fail with `error` if that is set."""

    protocol = "faulty"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    error: ClassVar[Exception | None] = None
    reads: ClassVar[list[int]] = []  # the bytes that each read returned

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("faulty://"))

    def _open(self, path: str, mode: str = "rb", **options):
        return FaultyFile(self.store[path].getvalue()) if mode == "rb" else super()._open(path, mode, **options)


class FaultyFile(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if FaultyFileSystem.error:
            raise FaultyFileSystem.error
        content = super().read(size)
        FaultyFileSystem.reads.append(len(content))
        return content

    def readinto(self, buffer) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def registered() -> Iterator[type[FaultyFileSystem]]:
    """fsspec knows `faulty://`, whose files are none at first."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    FaultyFileSystem.store.clear()
    FaultyFileSystem.pseudo_dirs[:] = [""]
    FaultyFileSystem.reads.clear()
    FaultyFileSystem.error = None
    STORES.add("faulty")
    yield FaultyFileSystem
    STORES.discard("faulty")
    FaultyFileSystem.error = None
