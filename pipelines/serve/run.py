"""The command `serve`."""

from __future__ import annotations

import errno
import logging
import socket
from dataclasses import dataclass

import uvicorn

from pipelines.serve.access import Access
from pipelines.serve.app import build
from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.serving import Serving
from vista_core import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A server that listens, and whose table and model are loaded."""

    url: str
    server: uvicorn.Server
    listener: socket.socket

    def run(self) -> None:
        """Answer requests until a signal arrives, or `server.should_exit` is set."""
        with self.listener:
            self.server.run(sockets=[self.listener])


def serve(config: ServeConfig) -> str:
    """Serve until a signal ends it. Returns what is printed then. Raises UsageError as `prepare` does."""
    prepare(config, ServeLimits()).run()
    return "stopped"


def prepare(config: ServeConfig, limits: ServeLimits) -> Prepared:
    """Listen, and load what is needed to answer.

    Raises UsageError if the address is in use or not this machine's, the token is missing, or the table can't be
    searched.
    """
    access = Access.of(config)
    listener = listening(config)  # before the model is loaded, which takes long
    try:
        serving = Serving(config, limits)
    except BaseException:
        listener.close()
        raise
    options = uvicorn.Config(
        build(serving, access),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=int(limits.stop_seconds),
    )
    url, now = address(config, listener), serving.versions.current
    log.info("serving %s, version %d, %s, at %s (Ctrl-C stops)", config.table, now.version, now.model, url)
    return Prepared(url, uvicorn.Server(options), listener)


def listening(config: ServeConfig) -> socket.socket:
    """A socket that listens where the options say. Raises UsageError if it can't."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"--host {config.host}: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port {config.port}: another program listens there; choose another, or 0 for a free one"
            ) from error
        raise UsageError(f"--host {config.host} --port {config.port}: {error.strerror}") from error
    return listener


def address(config: ServeConfig, listener: socket.socket) -> str:
    """The URL of the page, for people."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{listener.getsockname()[1]}/"
