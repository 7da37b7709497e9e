"""A process of the simulated world: it says what it is about to do, and goes on when the world lets it.

Each process is a fork of the world, so that it starts in milliseconds and can really be killed.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.events import Event
from pipelines.storage.errors import cause_of, explained
from pipelines.tables.machine import Machine
from pipelines.tables.runs import HeartbeatLimits
from tests.s3 import KEY, SECRET
from tests.simulate.compute import InThisProcess
from tests.simulate.store import BUCKET

DB = f"s3://{BUCKET}/db"
TABLE = "t"
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)  # of the simulated time
EVERY, DEAD_AFTER, LOOK = 60.0, 300.0, 60.0  # seconds of it
LOOK_FOR_END_SECONDS = 0.002  # of the real time


class Channel:
    """One end of a line between the world and a thread of a process: JSON, a line each."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.received = end.makefile("r")

    def say(self, **message: Any) -> None:
        """Send a message."""
        self.end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """The next message; the process ends where the world has ended."""
        line = self.received.readline()
        if not line:
            os._exit(1)
        return json.loads(line)

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message, and wait for its answer."""
        self.say(**message)
        return self.hear()


@dataclass(frozen=True)
class Order:
    """What a process is started for."""

    source: str
    machine: str
    endpoint: str
    log: Path
    lost_writes: tuple[int, ...] = ()
    units_per_block: int = 1
    take_over: bool = False
    deletes: bool = True


class SimulatedMachine:
    """A machine whose time the world tells, and makes pass."""

    def __init__(self, name: str, main: Channel, heart: Channel) -> None:
        self.name, self.main, self.heart = name, main, heart

    @property
    def machine(self) -> Machine:
        """The same for leases and heartbeats."""
        return Machine(lambda: self.name, self.now, self.monotonic, self.wait)

    def now(self) -> datetime:
        """The time of its clock, which may be wrong."""
        return BEGINNING + timedelta(seconds=self.channel.ask(clock="wall")["time"])

    def monotonic(self) -> float:
        """Seconds since it was started."""
        return float(self.channel.ask(clock="monotonic")["time"])

    @property
    def channel(self) -> Channel:
        return self.main if threading.current_thread() is threading.main_thread() else self.heart

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, or until the world says that so much time has passed."""
        channel = self.channel
        channel.say(wait=seconds)
        while not event.is_set():
            if select.select([channel.end], [], [], LOOK_FOR_END_SECONDS)[0]:
                channel.hear()
                return False
        channel.say(ended=True)
        return True


def fork(function: Callable[[Channel, Channel], None], ends: tuple[socket.socket, socket.socket]) -> int:
    """Start a process that talks over `ends`, and return its id."""
    if pid := os.fork():
        for end in ends:
            end.close()
        return pid
    try:
        function(*map(Channel, ends))
    except BaseException:  # noqa: BLE001 (a fork must not return into the code of its parent)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def drive(order: Order, main: Channel, heart: Channel) -> None:
    """A run of the embedding job."""
    become(order)
    machine = SimulatedMachine(order.machine, main, heart).machine
    limits = HeartbeatLimits(EVERY, DEAD_AFTER, LOOK, machine)
    computing = InThisProcess(order.lost_writes, order.units_per_block)

    def report(event: Event) -> None:
        main.ask(event=type(event).__name__)

    config = EmbedConfig(
        order.source,
        DB,
        TABLE,
        commit_seconds=0,
        max_reject_rate=0.9,
        delete_at_most=1_000_000 if order.deletes else None,
        report="none",
        take_over=order.take_over,
    )
    try:
        embed(config, Setup([report], compute=computing.compute, heartbeats=limits))
    except Exception as error:  # noqa: BLE001 (the world judges it)
        traceback.print_exc()
        cause, message = cause_of(error)
        clear = explained(error) is not None
        main.ask(ended=type(cause).__name__, message=message, explained=clear, encoded=computing.encoded)
    else:
        main.ask(ended="done", message="", encoded=computing.encoded)


def become(order: Order) -> None:
    """Give this process the environment and the log of what it is going to be."""
    os.environ |= {
        "AWS_ENDPOINT_URL": order.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
