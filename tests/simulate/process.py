"""The world's side of a process: where it stands, and how it is let go on, stopped or killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulate.corpus import Corpus
from tests.simulate.driver import Channel, Order, fork
from tests.simulate.schedule import Start
from tests.simulate.store import CLOSED, Answer, Request


@dataclass
class Line:
    """The world's end of a line to a thread of a process."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def of(cls, end: socket.socket) -> Line:
        return cls(*await asyncio.open_connection(sock=end))

    def say(self, **message: Any) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None if there are no more."""
        try:
            line = await self.reader.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line else None

    async def ask(self, **message: Any) -> dict[str, Any]:
        self.say(**message)
        answer = await self.hear()
        assert answer is not None, f"a process ended that was asked {message}"
        return answer


@dataclass
class Point:
    """Where a process waits for the world: before a request is done, after an event, for time to pass, at its end."""

    name: str
    request: Request | None = None
    answered: asyncio.Future[Answer] | None = None  # of a request
    message: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = None  # if the request is done

    @property
    def is_end(self) -> bool:
        return "ended" in self.message or self.name == "gone"


@dataclass
class Driver:
    """A run of the job."""

    number: int
    start: Start
    corpus: Corpus  # of the moment at which the run began
    began: int  # at this step of the world
    pid: int
    main: Line
    heart: Line
    points: asyncio.Queue[Point] = field(default_factory=asyncio.Queue)
    at: Point | None = None
    passed: int = 0  # points
    pending: list = field(default_factory=list)  # faults that have yet to happen
    alive: bool = True
    wakes: int | None = None  # at this step of the world; None unless it is suspended
    is_out_of_order: bool = False  # it was suspended, or a request of it was late: what it does may be out of date
    base: int = 0  # the latest version when it began
    heard_at: float = 0.0  # when it began or sent a heartbeat last, as `World.time`
    told: int = 0  # the step of the world at which it was judged or published last: what follows is not fenced
    beating: bool = False
    resting: asyncio.Event = field(default_factory=asyncio.Event)  # the heart waits
    beat_due: float = 0.0
    has_heart: bool = False
    mute: bool = False
    denied: bool = False
    slow: int = 0  # so many requests will be answered 503

    def __str__(self) -> str:
        return f"run {self.number}"

    @property
    def is_active(self) -> bool:
        return self.alive and self.wakes is None

    async def gated(self, request: Request) -> Answer:
        """A request has arrived: the world says what comes of it."""
        point = Point(request.kind, request, asyncio.get_running_loop().create_future())
        self.points.put_nowait(point)
        assert point.answered is not None
        return await point.answered

    def release(self, answer: Answer | None = None) -> None:
        """Let it go on; an `answer` is that of the request at which it stands."""
        point, self.at = self.at, None
        if point is None:
            return
        if point.answered is not None:
            if not point.answered.done():
                point.answered.set_result(answer or CLOSED)
        else:
            self.main.say()

    def kill(self) -> None:
        """End it as nobody can refuse."""
        os.kill(self.pid, signal.SIGKILL)
        self.bury()

    def bury(self) -> int:
        """Its exit code, once it has ended."""
        self.alive, self.wakes = False, None
        _, status = os.waitpid(self.pid, 0)
        self.release(CLOSED)
        while not self.points.empty():
            point = self.points.get_nowait()
            if point.answered is not None:
                point.answered.set_result(CLOSED)
        self.main.writer.close()
        self.heart.writer.close()
        return os.waitstatus_to_exitcode(status)


async def begin(function: Callable[[Order, Channel, Channel], None], order: Order) -> tuple[int, Line, Line]:
    """Fork a process that runs `function`."""
    mine, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
    pid = fork(lambda main, heart: function(order, main, heart), theirs)
    main, heart = [await Line.of(end) for end in mine]
    return pid, main, heart


Hear = Callable[[dict[str, Any]], Awaitable[None]]


async def listen_to_main(driver: Driver, tell_time: Callable[[Driver, str], float]) -> None:
    """Turn what the main thread of a run says into points."""
    while (message := await driver.main.hear()) is not None:
        if "clock" in message:
            driver.main.say(time=tell_time(driver, message["clock"]))
        else:
            name = message.get("event") or ("waits" if "wait" in message else "ends")
            driver.points.put_nowait(Point(name, message=message))
    driver.points.put_nowait(Point("gone"))


async def listen_to_heart(driver: Driver, tell_time: Callable[[Driver, str], float]) -> None:
    """Know when the heart of a run rests, and when it wants to beat again."""
    while (message := await driver.heart.hear()) is not None:
        if "clock" in message:
            driver.heart.say(time=tell_time(driver, message["clock"]))
        elif "ended" in message:
            driver.has_heart = False
            driver.resting.set()
        else:
            driver.beat_due = tell_time(driver, "true") + message["wait"]
            driver.resting.set()
    driver.resting.set()
