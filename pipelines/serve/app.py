"""The application: the page, the JSON API, and how errors are answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipelines.serve.access import COOKIE, Access
from pipelines.serve.api import router
from pipelines.serve.guard import Guard
from pipelines.serve.overload import OverloadError
from pipelines.serve.serving import Serving
from pipelines.storage.errors import explained
from vista_core import UsageError

STATIC = Path(__file__).parent / "static"
# As messages of the command name what is a field here, but for an option that only the server has.
OPTION = re.compile(r"--(?!allow-incomplete\b)([a-z][a-z-]*)")
SESSION_SECONDS = 7 * 24 * 3600
FRESH = {"cache-control": "no-cache"}  # pages are small, and a newer server has newer ones


def build(serving: Serving, access: Access) -> ASGIApp:
    """The application in front of what is open."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.start()
        try:
            yield
        finally:
            serving.stop()

    app = FastAPI(
        title=f"vista search: {serving.config.table}",
        version="1",
        description="Search a table by text, image, or both.",
        docs_url=None,  # FastAPI's own page takes its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.serving, app.state.access = serving, access
    app.include_router(router)
    add_pages(app)
    add_errors(app, serving)
    return Guard(app, access, serving.limits, serving.metrics)


def add_pages(app: FastAPI) -> None:
    """The pages, and what they consist of."""
    for path, file in (("/", "index.html"), ("/docs", "docs.html"), ("/login", "login.html")):
        app.add_api_route(path, page(file), include_in_schema=False)
    app.add_api_route("/login", log_in, methods=["POST"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))


def page(file: str) -> Callable[[], Awaitable[FileResponse]]:
    """An endpoint that sends a file of the page."""

    async def send() -> FileResponse:
        return FileResponse(STATIC / file, headers=FRESH)

    return send


async def log_in(request: Request, token: Annotated[str, Form(max_length=10_000)] = "") -> Response:
    """Give a browser the cookie that stands for the token."""
    access: Access = request.app.state.access
    if access.token is not None and not access.accepts(token.strip()):
        return JSONResponse({"detail": "This is not the token of this server."}, 401)
    answer = RedirectResponse("/", 303, headers={"cache-control": "no-store"})
    if access.token is not None:
        answer.set_cookie(COOKIE, access.session, max_age=SESSION_SECONDS, httponly=True, samesite="strict", path="/")
    return answer


def add_errors(app: FastAPI, serving: Serving) -> None:
    """How errors are answered: what the client can change is 400, what passes is 503."""

    async def wrong(_: Request, error: Exception) -> Response:
        # Where the table is concerns nobody who asks.
        message = str(error).replace(serving.versions.current.table.dataset.uri, serving.config.table)
        return JSONResponse({"detail": OPTION.sub(r"\1", message)}, 400)

    async def overloaded(_: Request, error: Exception) -> Response:
        serving.metrics.overloads.inc()
        after = {"retry-after": str(serving.limits.retry_after), "cache-control": "no-store"}
        return JSONResponse({"detail": f"{error}: come again in a moment"}, 503, after)

    async def store_failed(_: Request, error: Exception) -> Response:
        if (message := explained(error)) is None:
            raise error
        return JSONResponse({"detail": message}, 502)

    app.add_exception_handler(UsageError, wrong)
    app.add_exception_handler(OverloadError, overloaded)
    app.add_exception_handler(OSError, store_failed)
    app.add_exception_handler(ValueError, store_failed)
