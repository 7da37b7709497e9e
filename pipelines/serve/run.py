"""The command `serve`."""

from __future__ import annotations

import errno
import logging
import socket

import uvicorn

from pipelines.serve.access import Access
from pipelines.serve.app import build
from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.serving import Serving
from vista_core import UsageError

log = logging.getLogger(__name__)


def serve(config: ServeConfig, limits: ServeLimits = ServeLimits()) -> str:  # noqa: B008  # a frozen value
    """Serve until a signal ends it. Returns what is printed then.

    Raises UsageError if the address is in use or not this machine's, the token is missing, or the table can't be
    searched.
    """
    access = Access.of(config)
    with listening(config) as listener:  # before the model is loaded, which takes long
        serving = Serving(config, limits)
        server = uvicorn.Server(
            uvicorn.Config(
                build(serving, access),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                h11_max_incomplete_event_size=64 << 10,
                timeout_graceful_shutdown=int(limits.stop_seconds),
            )
        )
        current = serving.versions.current
        log.info(
            "serving %s, version %d, %s, at %s (Ctrl-C stops)",
            config.table,
            current.version,
            current.model,
            address(config, listener),
        )
        server.run(sockets=[listener])
    return "stopped"


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
