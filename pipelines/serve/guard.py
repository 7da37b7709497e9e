"""What holds for every request before a route sees it: who may ask, how long its body may be, and the headers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.access import Access, Refusal
from pipelines.serve.config import ServeLimits
from pipelines.serve.metrics import Metrics

WITHOUT_TOKEN = ("/healthz", "/login", "/static/login.js", "/static/style.css", "/static/theme.js", "/static/icon.svg")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class BodyError(HTTPException):
    """The body of a request is too long, or does not arrive. Whoever reads it, FastAPI answers so."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.detail, {"connection": "close", **refusal.headers})
        self.refusal = refusal


class Guard:
    """The ASGI application in front of `app`."""

    def __init__(self, app: ASGIApp, access: Access, limits: ServeLimits, metrics: Metrics) -> None:
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics
        self.held = Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: with a refusal, or with what `app` answers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer, body = Answer(send), Body(receive, self.limits, self.held)
        try:
            if (refusal := self.refusal(scope)) is not None:
                await answer.refuse(refusal)
            else:
                await self.app(scope, body.receive, answer.send)
        except BodyError as error:
            await answer.refuse(error.refusal)
        finally:
            self.held.bytes -= body.length
            self.metrics.requests.labels(route_of(scope), str(answer.status)).inc()

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is not answered, if so."""
        headers = Headers(scope=scope)
        if (refusal := self.access.refusal(scope["method"], headers)) is not None:
            return refusal
        if scope["path"] not in WITHOUT_TOKEN and not self.access.knows(headers):
            if scope["path"] == "/" and scope["method"] == "GET":
                return Refusal(303, "/login")
            return Refusal(401, "give the token: Authorization: Bearer TOKEN, or log in at /login")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            return too_long(self.limits)
        return None


class Answer:
    """Sends an answer with HEADERS."""

    def __init__(self, send: Send) -> None:
        self.outgoing, self.status, self.started = send, 500, False

    async def send(self, message: Message) -> None:
        """ASGI's `send`, with the headers added."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await self.outgoing(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal, unless an answer has begun."""
        if self.started:
            return
        headers: list[Any] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.status == HTTPStatus.SEE_OTHER:
            headers.append((b"location", refusal.detail.encode()))
        body = json.dumps({"detail": refusal.detail}).encode()
        headers.append((b"content-length", str(len(body)).encode()))
        if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


@dataclass
class Held:
    """Bytes of the bodies of all requests that are under way."""

    bytes: int = 0


class Body:
    """Receives the body of a request within limits on its length and its pace, and on all bodies together."""

    def __init__(self, receive: Receive, limits: ServeLimits, held: Held) -> None:
        self.incoming, self.limits, self.held, self.length, self.ended = receive, limits, held, 0, False

    async def receive(self) -> Message:
        """ASGI's `receive`. Raises BodyError."""
        if self.ended:  # what comes now is the end of the connection, for which a long answer waits
            return await self.incoming()
        try:
            message = await asyncio.wait_for(self.incoming(), self.limits.body_seconds)
        except TimeoutError as error:
            raise BodyError(Refusal(408, "the request did not arrive in time")) from error
        arrived = len(message.get("body", b""))
        self.length += arrived
        self.held.bytes += arrived
        self.ended = not message.get("more_body", False)
        if self.length > self.limits.body_bytes:
            raise BodyError(too_long(self.limits))
        if self.held.bytes > self.limits.bodies_bytes:
            after = {"retry-after": str(self.limits.retry_after)}
            raise BodyError(Refusal(503, "too many images are being sent: come again in a moment", after))
        return message


def too_long(limits: ServeLimits) -> Refusal:
    """The refusal of a request that is too long."""
    return Refusal(413, f"a request may have at most {limits.body_bytes:,} bytes")


def route_of(scope: Scope) -> str:
    """The path pattern that a request matched, so that metrics have a bounded number of labels."""
    route = scope.get("route")
    return getattr(route, "path", "other")
