"""What a job writes to standard error: plain lines on a terminal; otherwise with time and level, or as JSON."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.current_run import CURRENT
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


class JsonFormatter(LogFormatter):
    """For programs: a JSON object a line, with the id of the run as soon as it has the table."""

    def format(self, record: logging.LogRecord) -> str:
        """The object of a message."""
        facts = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "run": CURRENT.id,
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False)


def formatter() -> logging.Formatter:
    """JSON if VISTA_LOG says so; else as suits a terminal or a file."""
    if os.environ.get("VISTA_LOG") == "json":
        return JsonFormatter()
    return PlainFormatter() if sys.stderr.isatty() else LogFormatter()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write the log of this process to standard error."""
    handler = StderrHandler()
    handler.setFormatter(formatter())
    for name in INFORMING:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
