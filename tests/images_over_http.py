"""An HTTP server with images, on a free port of this machine, that can be slow, broken and wrong in many ways."""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import ssl
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

METADATA_SERVICE = "http://169.254.169.254/latest/meta-data/"
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


class ImageServer(ThreadingHTTPServer):
    """Answers by the first part of the path, see `Answers`; counts requests, in all and at the same time."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_address[1]}"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            # The handshake is done by the thread of the request.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.release = threading.Event()  # ends all answers that hang
        self.edition = 1  # each edition has other images
        self.large = 1 << 20
        self.bomb = b""  # a gzip body
        self.target = ""  # of a redirect
        self.open_at = 0.0  # by the monotonic clock
        self.asked: Counter[tuple[str, str]] = Counter()
        self.headers: dict[str, dict[str, str]] = {}  # of the last request for a path
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.on_request: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self.at_once = self.peak = 0

    def image(self, path: str) -> bytes:
        """The image at a path that works."""
        return f"the image {path}, edition {self.edition}".encode() * 100

    def gets(self, path: str) -> int:
        """How many GET requests there were for a path."""
        return self.asked["GET", path]

    def total(self, method: str) -> int:
        """How many requests with this method there were, for any path."""
        return sum(number for (each, _), number in self.asked.items() if each == method)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: in some tests clients hang up, as they should."""


@contextmanager
def serve_images(certificate: Path | None = None) -> Iterator[ImageServer]:
    """A server that runs as long as the context lasts; with a certificate and its key, one for https."""
    with ImageServer(certificate) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


class Answers(BaseHTTPRequestHandler):
    """`/good/x.png` is answered by the method `answer_good`, and so on; paths without a method are not found."""

    server: ImageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.command, self.path] += 1
            self.server.headers[self.path] = dict(self.headers)
            self.server.times[self.path].append(time.monotonic())
            self.server.at_once += 1
            self.server.peak = max(self.server.peak, self.server.at_once)
        try:
            self.server.on_request()
            kind = self.path.split("/")[1].replace("-", "_")
            getattr(self, f"answer_{kind}", self.answer_missing)()
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    @property
    def first(self) -> bool:
        """True if this is the first request for this path."""
        return self.server.asked[self.command, self.path] == 1

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def answer(self, status: int, body: bytes = b"", **headers: Any) -> None:
        """A complete answer; `_` in names of headers stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.head(status, {"Content-Length": len(body)} | named)
        if self.command == "GET":
            self.wfile.write(body)

    def answer_missing(self) -> None:
        self.answer(404, b"no such image")

    def answer_good(self) -> None:
        body = self.server.image(self.path)
        self.answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')

    def answer_volatile(self) -> None:
        """The same image under another etag each time."""
        self.answer(200, self.server.image(self.path), ETag=f'"{sum(self.server.asked.values())}"')

    def answer_dated(self) -> None:
        self.answer(200, self.server.image(self.path), Last_Modified=DATE)

    def answer_bare(self) -> None:
        self.answer(200, self.server.image(self.path))

    def answer_no_head(self) -> None:
        self.answer_good() if self.command == "GET" else self.answer(405)

    def answer_head(self) -> None:
        """`/head/405/whole/1.png`: HEAD is answered by 405; GET with the whole image, a part of it, no part, or 404."""
        _, _, status, kind, *_ = self.path.split("/")
        body = self.server.image(self.path)
        version = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'} if kind == "part" else {"Last_Modified": DATE}
        if self.command == "HEAD":
            self.answer(int(status), **(version if status == "200" else {}))
        elif kind == "missing":
            self.answer_missing()
        elif "Range" not in self.headers or kind == "whole":
            self.answer(200, body, **version)
        elif kind == "no-part":
            self.answer(416, b"not satisfiable")
        else:
            self.answer(206, body[:1], Content_Range=f"bytes 0-0/{len(body)}", **version)

    def answer_cut_off_head(self) -> None:
        """The connection ends where HEAD is asked."""
        if self.command == "HEAD":
            self.close_connection = True
        else:
            self.answer_good()

    def answer_busy(self) -> None:
        """`/busy/30/1.png`: the host always asks to be left alone for 30 seconds."""
        self.answer(429, Retry_After=self.path.split("/")[2])

    def answer_limited(self) -> None:
        """Requests before `server.open_at` are answered by 429, and how many seconds are left."""
        left = self.server.open_at - time.monotonic()
        self.answer(429, Retry_After=math.ceil(left)) if left > 0 else self.answer_good()

    def answer_signed(self) -> None:
        self.answer_good() if self.command == "GET" else self.answer(403)

    def answer_locked(self) -> None:
        self.answer(403)

    def answer_slow(self) -> None:
        self.server.release.wait()
        self.answer_good()

    def answer_zipped(self) -> None:
        self.answer(200, gzip.compress(self.server.image(self.path)), Content_Encoding="gzip")

    def answer_deflated(self) -> None:
        self.answer(200, zlib.compress(self.server.image(self.path)), Content_Encoding="deflate")

    def answer_bomb(self) -> None:
        self.answer(200, self.server.bomb, Content_Encoding="gzip")

    def answer_wordy(self) -> None:
        self.answer(200, self.server.image(self.path), Content_Security_Policy="x" * 20_000)

    def answer_cookie(self) -> None:
        self.answer(200, self.server.image(self.path), Set_Cookie="seen=1; Path=/")

    def answer_none(self) -> None:
        self.answer(204)

    def answer_drip(self) -> None:
        self.head(200, {"Content-Length": 10_000})
        self.drip()

    def answer_drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.drip()

    def drip(self) -> None:
        while not self.server.release.wait(0.02):
            self.wfile.write(b"x")

    def answer_cut(self) -> None:
        self.head(200, {"Content-Length": 1000, "ETag": '"1"'})
        self.wfile.write(b"half")
        self.close_connection = True

    def answer_cut_once(self) -> None:
        self.answer_cut() if self.first else self.answer_good()

    def answer_cut_chunked(self) -> None:
        self.head(200, {"Transfer-Encoding": "chunked"})
        self.wfile.write(b"ff\r\nhalf")
        self.close_connection = True

    def answer_broken(self) -> None:
        self.answer(500)

    def answer_broken_once(self) -> None:
        self.answer(500) if self.first else self.answer_good()

    def answer_busy_once(self) -> None:
        self.answer(429, Retry_After="0") if self.first else self.answer_good()

    def answer_busy_for_an_hour_once(self) -> None:
        self.answer(429, Retry_After="3600") if self.first else self.answer_good()

    def answer_inside(self) -> None:
        self.answer(302, Location=f"/good{self.path.removeprefix('/inside')}")

    def answer_inside_endless(self) -> None:
        self.endless(302, {"Location": f"/good{self.path.removeprefix('/inside-endless')}"})

    def answer_outside(self) -> None:
        self.answer(302, Location=METADATA_SERVICE)

    def answer_to_target(self) -> None:
        self.answer(302, Location=self.server.target)

    def answer_to_file(self) -> None:
        self.answer(301, Location="file:///etc/passwd")

    def answer_to_user(self) -> None:
        self.answer(302, Location=f"{self.server.url.replace('//', '//user@')}/good/1.png")

    def answer_to_signed(self) -> None:
        self.answer(302, Location="https://cdn.example.com/1.png?w=3&Signature=s3cr3t")

    def answer_to_nonsense(self) -> None:
        self.answer(302, Location="http://[x/")

    def answer_to_bytes(self) -> None:
        self.answer(302, Location="/good/\xff.png")

    def answer_to_utf8(self) -> None:
        self.answer(302, Location="/good/ü 日.png".encode().decode("latin-1"))  # headers are encoded as Latin-1

    def answer_loop(self) -> None:
        self.answer(307, Location=self.path)

    def answer_large(self) -> None:
        self.answer(200, bytes(self.server.large), ETag='"1"')

    def answer_long(self) -> None:
        """The Content-Length has too many digits."""
        self.answer(200, self.server.image(self.path), Content_Length="9" * 5000, ETag='"1"')

    def answer_endless(self) -> None:
        self.endless(200, {"ETag": '"1"'})

    def endless(self, status: int, headers: dict[str, Any]) -> None:
        self.head(status, headers | {"Transfer-Encoding": "chunked"})
        while self.command == "GET" and not self.server.release.is_set():
            self.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    def answer_expired(self) -> None:
        """The answer of S3 for credentials that have expired."""
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.answer(400, body if self.command == "GET" else b"", Content_Type="application/xml")

    def answer_denied(self) -> None:
        """The answer of S3 for an object that the credentials may not read."""
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.answer(403, body if self.command == "GET" else b"", Content_Type="application/xml")
