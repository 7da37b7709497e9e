"""A server in a thread of the test, and a client that sends what browsers and attackers send."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.run import prepare

WAIT_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Sends requests, each by a connection of its own."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return urlsplit(self.url).netloc

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.place, timeout=WAIT_SECONDS)
        try:
            given = {**self.headers, **(headers or {})}
            connection.request(method, path, body, given, encode_chunked="Transfer-Encoding" in given)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def search(self, headers: dict[str, str] | None = None, **fields: object) -> Answer:
        kind, body = multipart(fields)
        return self.request("POST", "/api/search", body, {"Content-Type": kind, **(headers or {})})

    def ids(self, **fields: object) -> list[str]:
        answer = self.search(**fields)
        assert answer.status == 200, answer.body
        return [row["id"] for row in answer.json["results"]]


def multipart(fields: dict[str, object]) -> tuple[str, bytes]:
    """A form as browsers send it; bytes are a file. Returns its content type and content."""
    boundary, parts = uuid.uuid4().hex, []
    for name, value in fields.items():
        file = '; filename="query"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else str(value).encode()
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content)
    return f"multipart/form-data; boundary={boundary}", b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])


def until(holds: Callable[[], bool]) -> None:
    """Ask until something holds."""
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def running(config: ServeConfig, limits: ServeLimits | None = None) -> Iterator[Client]:
    """A server on a free port, until the context ends."""
    prepared = prepare(config, limits or ServeLimits(poll_seconds=0.05))
    thread = threading.Thread(target=prepared.run)
    thread.start()
    try:
        yield Client(prepared.url.rstrip("/"))
    finally:
        prepared.server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
