"""An object store in memory that speaks as much of S3 as Lance needs, and asks before it does what a client wants.

One thread serves all clients, so that nothing happens in it while something else does. A client is known by the port
that it connects to.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "simulated"
KEYS_PER_PAGE = 1000
NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
EXISTS = b"<Error><Code>PreconditionFailed</Code><Message>the key exists</Message></Error>"
REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 403: "Forbidden", 404: "Not Found",
           412: "Precondition Failed", 503: "Slow Down"}  # fmt: skip


@dataclass(frozen=True)
class Object:
    """What is stored under a key."""

    content: bytes
    modified: float

    @property
    def headers(self) -> dict[str, str]:
        etag = f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'
        return {"ETag": etag, "Last-Modified": formatdate(self.modified, usegmt=True), "Accept-Ranges": "bytes"}


@dataclass(frozen=True)
class Request:
    """What a client wants."""

    method: str
    key: str  # without the bucket; empty for a request to the bucket
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """Method and place without the names that Lance makes up, such as `PUT t.lance/_versions`."""
        folders = self.key.split("/")[:-1]
        return " ".join([self.method, "/".join(each for each in folders if not re.fullmatch("[0-9a-f-]{32,36}", each))])


@dataclass(frozen=True)
class Answer:
    """What a client gets; without a status the connection is closed instead."""

    status: int | None
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


CLOSED = Answer(None)
SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
DENIED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")

Handle = Callable[[int, Request], Awaitable[Answer]]  # the port, and the request


class Store:
    """The objects. `written` is told each key that gets other content."""

    def __init__(self, written: Callable[[str, bytes], None]) -> None:
        self.objects: dict[str, Object] = {}
        self.written = written

    def execute(self, request: Request) -> Answer:
        """Do what a client wants."""
        match request.method:
            case "GET" if not request.key:
                return self.listed(request.query)
            case "GET" | "HEAD":
                return self.read(request)
            case "PUT":
                return self.write(request)
            case "DELETE":
                self.objects.pop(request.key, None)
                return Answer(204)
            case "POST" if "delete" in request.query:
                return self.delete(re.findall("<Key>(.*?)</Key>", request.body.decode()))
        raise AssertionError(f"{request.method} {request.key} {request.query} is not simulated")

    def read(self, request: Request) -> Answer:
        """The whole object, or a range of it."""
        found = self.objects.get(request.key)
        if found is None:
            return Answer(404, NOT_FOUND)
        content = found.content
        if (asked := request.headers.get("range")) is None:
            return Answer(200, content, found.headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1 if first and last else len(content), len(content))
        return Answer(
            206, content[start:end], found.headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        )

    def write(self, request: Request) -> Answer:
        """Store an object or a copy of one, unless it may not replace the one that is there."""
        if "partNumber" in request.query:
            raise AssertionError("uploads in parts are not simulated")
        if request.headers.get("if-none-match") == "*" and request.key in self.objects:
            return Answer(412, EXISTS)
        content = request.body
        if source := request.headers.get("x-amz-copy-source"):
            content = self.objects[unquote(source).lstrip("/").partition("/")[2]].content
        stored = self.objects[request.key] = Object(content, time.time())
        self.written(request.key, content)
        body = b"<CopyObjectResult/>" if source else b""
        return Answer(200, body, stored.headers)

    def delete(self, keys: list[str]) -> Answer:
        """Remove several objects."""
        for key in keys:
            self.objects.pop(key, None)
        return Answer(200, b"<DeleteResult/>")

    def listed(self, query: dict[str, list[str]]) -> Answer:
        """A page of the keys with a prefix, those below a delimiter as common prefixes."""
        [prefix], [delimiter] = query.get("prefix", [""]), query.get("delimiter", [""])
        after = (query.get("continuation-token") or query.get("start-after") or [""])[0]
        keys, prefixes = [], dict[str, None]()
        for key in sorted(self.objects):
            if not key.startswith(prefix) or key <= after:
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                prefixes[f"{prefix}{head}{delimiter}"] = None
            else:
                keys.append(key)
        more = len(keys) > KEYS_PER_PAGE
        entries = "".join(self.entry(key) for key in keys[:KEYS_PER_PAGE])
        folders = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in prefixes)
        token = f"<NextContinuationToken>{escape(keys[KEYS_PER_PAGE - 1])}</NextContinuationToken>" if more else ""
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
        body = f"{head}<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}{folders}"
        return Answer(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

    def entry(self, key: str) -> str:
        """An object in a listing."""
        found = self.objects[key]
        modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.modified))
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{escape(found.headers['ETag'])}</ETag><Size>{len(found.content)}</Size></Contents>"
        )


async def listen(handle: Handle) -> asyncio.Server:
    """Serve on a free port of this machine."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        try:
            while (request := await read(reader)) is not None:
                answer = await handle(port, request)
                if answer.status is None:
                    break
                respond(writer, request, answer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):  # client or world is gone
            pass
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    _, _, key = unquote(url.path).lstrip("/").partition("/")
    return Request(method, key, parse_qs(url.query, keep_blank_values=True), headers, body)


def respond(writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
    """Send an answer."""
    assert answer.status is not None
    length = len(answer.content)
    content = b"" if request.method == "HEAD" else answer.content
    lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
