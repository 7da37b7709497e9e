"""Warnings that are logged on a worker, brought to the driver's log.

Ray doesn't forward the output of workers (`log_to_driver=False`), since it would be mostly noise. A function that runs
on a worker returns its warnings beside its result instead, and the driver logs them again.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from pipelines.storage.errors import cause_of

LOGGERS = ("pipelines", "vista_core")
WARNINGS = "worker_warnings"  # attribute of an error that a reporting function raised

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """Collect what this thread logs meanwhile at WARNING and above, as `LEVEL LOGGER: MESSAGE`."""
    capture = Capture()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(capture)
    try:
        yield capture.lines
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(capture)


class Capture(logging.Handler):
    """Keeps the log messages of the thread that made it in a list."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()  # an encode actor has several, each with a batch of its own
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging` for each message."""
        if record.thread == self.thread:
            self.lines.append(f"{record.levelname} {record.name}: {self.format(record)}")


def reporting(function: Callable[P, T]) -> Callable[P, tuple[T, list[str]]]:
    """`function`, made to return a pair: its result, and the warnings that it logged.

    If it raises, the error carries the warnings; `warnings_of` reads them. Not for generators, whose body runs after
    the call: use `captured_warnings` in them.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> tuple[T, list[str]]:
        with captured_warnings() as warnings:
            try:
                return function(*args, **kwargs), warnings
            except Exception as error:
                setattr(error, WARNINGS, warnings)  # Ray carries an error's attributes to the driver
                raise

    return call


def warnings_of(error: BaseException) -> list[str]:
    """The warnings that a reporting function logged before it raised `error`, here or in a Ray task."""
    cause, _ = cause_of(error)
    return getattr(cause, WARNINGS, [])


def log_again(warnings: Iterable[str]) -> None:
    """Log captured warnings in this process, with their level and by their logger."""
    for warning in warnings:
        origin, _, message = warning.partition(": ")
        level, _, name = origin.partition(" ")
        logging.getLogger(name).log(logging.getLevelNamesMapping().get(level, logging.WARNING), "%s", message)
