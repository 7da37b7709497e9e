"""Ends this process if it makes no progress, also where native code holds the interpreter's lock and never returns."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

STDERR = 2
TIMED_OUT = "Timeout ("  # how the message begins that faulthandler writes before it ends the process
REARM_SECONDS = 1.0  # setting the timer anew starts a thread, so it is not done for each record

T = TypeVar("T")


class Watchdog:
    """The timer of this process; there is one, since faulthandler has one."""

    def __init__(self) -> None:
        self.seconds: float | None = None  # None while it is off
        self.armed_at = 0.0

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """End the process, with its stack on standard error, after `seconds` in this block without `progress`."""
        self.seconds = seconds
        self.arm()
        try:
            yield
        finally:
            self.seconds = None
            faulthandler.cancel_dump_traceback_later()

    def progress(self) -> None:
        """Something was completed: the deadline begins anew."""
        if self.seconds is not None and time.monotonic() - self.armed_at >= REARM_SECONDS:
            self.arm()

    def arm(self) -> None:
        """Set the timer; an earlier one is replaced."""
        assert self.seconds is not None, "only called within `deadline`"
        self.armed_at = time.monotonic()
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=STDERR)


WATCHDOG = Watchdog()


def watched(items: Iterable[T], seconds: float) -> Iterator[T]:
    """`items`, each of which has to come within `seconds`. The time that the consumer takes is not counted."""
    iterator, end = iter(items), object()
    while True:
        with WATCHDOG.deadline(seconds):
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]
