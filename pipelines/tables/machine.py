"""The machine that a run is on, as leases and heartbeats know it: its name, and its clocks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil


def this_machine() -> str:
    """The host name with what tells apart the machines, boots and containers that have this name.

    Two processes with the same `this_machine` see each other. Where there is no /proc, the boot is known by its time.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return f"{socket.gethostname()} (booted at {psutil.boot_time():.0f})"
    return f"{socket.gethostname()} (boot {boot}, process namespace {namespace})"


def utc_now() -> datetime:
    """The time of the clock on the wall, which may be wrong, and may jump."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Machine:
    """A machine. Simulations have some whose clocks are wrong."""

    name: Callable[[], str] = this_machine
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic  # seconds
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait  # for an event, at most so many seconds


HERE: Final = Machine()  # the machine on which this process runs
