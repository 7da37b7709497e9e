"""SIGINT and SIGTERM end a command in order: nothing is left half done, and what is finished is kept.

The first signal raises KeyboardInterrupt in the main thread, as Python does for SIGINT. What must not be torn apart
runs within `deferred`, at whose end it is raised. A second signal ends the process at once, and so does a command that
has not ended 25 seconds after the first: Kubernetes kills after 30.

A process has one set of signal handlers, hence the state of this module.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

STOP_SECONDS = 25.0
ANNOUNCE_SECONDS = 1.0
ECHO_SECONDS = 0.3  # `timeout` signals the process, and then its group: the same stop arrives twice
SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


@dataclass
class Stop:
    """What this process was told."""

    installed: bool = False
    received: signal.Signals | None = None
    deferring: int = 0  # how many `deferred` are entered
    announced: threading.Event = field(default_factory=threading.Event)  # `watch` has said that it stops

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGNALS. It doesn't log, since it may interrupt another message; `watch` does."""
        if self.received is None:
            self.received = signal.Signals(number)
            if not self.deferring:
                raise KeyboardInterrupt


STOP = Stop()


@contextmanager
def stopping_in_order(seconds: float = STOP_SECONDS) -> Iterator[None]:
    """Handle SIGINT and SIGTERM while the context lasts and, after a signal, until the process ends.

    Does nothing outside of the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread() or STOP.installed:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The main thread may be in a library that lets no handler run; this file descriptor is written to all the same.
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, STOP.handle) for number in SIGNALS}
    STOP.installed = True
    threading.Thread(target=watch, args=(reader, seconds), daemon=True).start()
    try:
        yield
    finally:
        if STOP.received is None:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            STOP.installed = False
            os.close(writer)  # ends the thread


def watch(reader: int, seconds: float) -> None:
    """Announce the first signal; end the process at the second, or after `seconds`."""
    if (first := next_signal(reader, None)) is None:
        os.close(reader)
        return
    log.warning("%s: stopping. What is finished is kept; a second signal stops at once", first.name)
    STOP.announced.set()
    now = time.monotonic()
    end, deaf_until, last = now + seconds, now + ECHO_SECONDS, None
    while time.monotonic() < end and last is None:
        another = next_signal(reader, end - time.monotonic())
        last = another if time.monotonic() >= deaf_until else None
    reason = f"{last.name}, the second signal" if last else f"{first.name}, and not ended after {seconds:g} seconds"
    leave(128 + (last or first), f"{reason}: ends at once. What was committed stays, and the same command continues")


def next_signal(reader: int, seconds: float | None) -> signal.Signals | None:
    """The next of SIGNALS; None if none comes within `seconds`, or no more can come."""
    while select.select([reader], [], [], None if seconds is None else max(0.0, seconds))[0]:
        if not (number := os.read(reader, 1)):
            return None
        if number[0] in SIGNALS:
            return signal.Signals(number[0])
    return None


def leave(code: int, message: str) -> None:
    """End this process, whatever its threads do."""
    timer = threading.Timer(1.0, os._exit, [code])  # the message may have to wait for whoever is logging
    timer.daemon = True
    timer.start()
    log.error("%s", message)
    if sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr, flush=True)  # a progress bar hides the cursor
    os._exit(code)


@contextmanager
def deferred() -> Iterator[None]:
    """Finish what is in this context before a signal that arrives meanwhile raises KeyboardInterrupt."""
    before = STOP.received
    STOP.deferring += 1
    try:
        yield
    finally:
        STOP.deferring -= 1
    if before is None and STOP.received is not None and not STOP.deferring:
        raise KeyboardInterrupt


def stopped_by(error: BaseException) -> signal.Signals | None:
    """The signal that is behind an error, which a library may have made of the KeyboardInterrupt; None if none is.

    Waits until the signal is announced, so that what the caller says of it is read after that.
    """
    if STOP.received is not None:
        STOP.announced.wait(ANNOUNCE_SECONDS)
    return STOP.received or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """For `ray.init`, which handles SIGTERM by SystemExit from then on: put the handler of this module back."""
    try:
        yield
    except SystemExit:
        if STOP.installed:
            STOP.handle(signal.SIGTERM, None)
        raise
    finally:
        if STOP.installed and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, STOP.handle)
