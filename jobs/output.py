"""What a job writes to standard error: plain lines on a terminal; otherwise log lines with time and level."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.storage.uris import redacted_text
from pipelines.terminal import one_line, show

INFORMING = ("pipelines", "jobs")  # of other libraries, only warnings


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment: while a progress bar is drawn, rich puts lines above it.

    Whatever a library logs, passwords and signatures of URIs are not written.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging` for each message, which is one line; a traceback has several."""
        record = copy.copy(record)
        record.msg, record.args = one_line(record.getMessage()), None
        show(redacted_text(self.format(record)), sys.stderr)


class PlainFormatter(logging.Formatter):
    """For people: the message alone. `error: ` precedes the error that ends a job."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines, of a message."""
        return f"{'error: ' if record.levelno >= logging.ERROR else ''}{super().format(record)}"


class LogFormatter(logging.Formatter):
    """For collectors of logs: `2026-11-25T03:12:01Z INFO pipelines.embed.run: ...`, the time in UTC."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write the log of this process to standard error, as suits a terminal or a file."""
    handler = StderrHandler()
    handler.setFormatter(PlainFormatter() if sys.stderr.isatty() else LogFormatter())
    for name in INFORMING:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
