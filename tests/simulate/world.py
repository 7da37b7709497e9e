"""A simulated world: a store, machines with clocks, runs of the job, readers, other clients, and what befalls them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulate.checker import Checker
from tests.simulate.corpus import Author, Corpus
from tests.simulate.driver import TABLE, Order, drive
from tests.simulate.faults import FAULTS, GOES_ON
from tests.simulate.others import GUEST, meddle, read
from tests.simulate.process import Driver, Line, Point, begin, listen_to_heart, listen_to_main
from tests.simulate.schedule import AT_REQUESTS, MACHINES, Fault, Schedule, Start
from tests.simulate.store import CLOSED, DENIED, SLOW_DOWN, Answer, Request, Store, listen

COUNTED = re.compile(r"^PUT db/\w+\.lance/(_versions|_transactions|_deletions|data|_refs/tags)$")
TAG = re.compile(rf"^db/{TABLE}\.lance/_refs/tags/published\.json$")
MANIFEST = re.compile(rf"^db/{TABLE}\.lance/_versions/(\d+)\.manifest$")
HELD = re.compile(rb'"pid": (\d+)[^{}]*"ended": false')  # in the lease, which a manifest has in its configuration
A_DAY = 86_400.0
TYPICAL_POINTS = 80  # of a run, as long as none has ended
NEWEST_FIRST = (1 << 64) - 1  # Lance counts the names of manifests down from here


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    history: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # promises that were broken
    kills: int = 0
    runs: int = 0

    @property
    def digest(self) -> str:
        """Equal for equal histories."""
        return hashlib.blake2b("\n".join(self.history).encode(), digest_size=8).hexdigest()


class World:
    """Everything there is, and the order in which it happens."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule, self.folder = schedule, folder
        self.chance = random.Random(f"{schedule.seed} as it happens")
        self.author = Author(random.Random(f"{schedule.seed} the catalog"))
        self.outcome = Outcome(schedule.seed)
        self.store = Store(self.written)
        self.time, self.skew = 0.0, dict(schedule.skew)
        self.steps = 0
        self.drivers: list[Driver] = []
        self.ports: dict[int, Driver] = {}
        self.pids: list[int] = []
        self.moving: Driver | None = None  # whose turn it is
        self.holder: Driver | None = None  # that holds the table in its latest version
        self.late: list[tuple[int, Driver, Request]] = []  # requests on their way, and the step at which they arrive
        self.typical = TYPICAL_POINTS
        self.guests = 0
        self.tasks: list[asyncio.Task] = []
        self.checker = Checker(self.outcome.faults, schedule.deletes)
        self.source = folder / "catalog"

    # What happens

    async def live(self) -> None:
        """Night after night; then an undisturbed run, and one more that finds nothing to do."""
        self.source.mkdir()
        server = await listen(self.handle)
        self.port = server.sockets[0].getsockname()[1]
        self.reader = await self.another(read, "reader")
        self.meddler = await self.another(meddle, "other")
        corpus = self.author.first()
        for number, starts in enumerate(self.schedule.nights):
            corpus = self.author.next(corpus) if number else corpus
            self.dawn(corpus)
            for start in starts:
                await self.run(start, corpus)
            await self.pass_time(A_DAY)
        await self.until_quiet(wake=True)
        await self.arrive(everything=True)
        await self.pass_time(A_DAY)
        await self.undisturbed(corpus)

    def dawn(self, corpus: Corpus) -> None:
        """The catalog of a night is there."""
        corpus.write(self.source)
        self.checker.nights.append(corpus)
        files = ", ".join(f"{name} {len(records)}" for name, records in corpus.files.items())
        changes = ", ".join(f"{number} {name}" for name, number in sorted(self.author.changes.items()))
        self.tell(f"night {corpus.night}: {files}" + (f" ({changes})" if changes else ""))

    async def run(self, start: Start, corpus: Corpus) -> Driver:
        """Start a run, and let it and whoever is awake go on until all of them ended or are suspended."""
        driver = await self.begin(start, corpus)
        await self.until_quiet()
        await self.look()
        return driver

    async def until_quiet(self, wake: bool = False) -> None:
        """Let everybody go on in turns. With `wake` nobody sleeps any more."""
        while True:
            for driver in self.drivers:
                if driver.wakes is not None and (wake or driver.wakes <= self.steps):
                    self.wake(driver)
            active = [driver for driver in self.drivers if driver.is_active]
            if not active:
                break
            await self.step(active[0] if len(active) == 1 else self.chance.choice(active))
            await self.arrive()
        if wake:
            await self.look()

    async def undisturbed(self, corpus: Corpus) -> None:
        """Whatever happened: now one run puts everything right, and the next one has nothing to do."""
        for number in ("one", "two"):
            start = Start(MACHINES[0], (), (), 2, take_over=False)
            driver = await self.run(start, corpus)
            self.checker.at_rest(driver, again=number == "two")
            await self.pass_time(A_DAY)
        rejects = (await self.reader.ask(look="rejects"))["rows"]
        statuses = [row[0] for row in (await self.reader.ask(look="runs"))["rows"]]
        self.checker.at_the_end(corpus, [tuple(row) for row in rejects], statuses)

    # Runs

    async def begin(self, start: Start, corpus: Corpus) -> Driver:
        """Start a run, and wait until it comes to its first point."""
        server = await listen(self.handle)
        port, number = server.sockets[0].getsockname()[1], len(self.drivers) + 1
        order = Order(
            source=str(self.source),
            machine=start.machine,
            endpoint=f"http://127.0.0.1:{port}",
            log=self.folder / f"run-{number}.log",
            lost_writes=start.lost_writes,
            units_per_block=start.units_per_block,
            take_over=start.take_over,
            deletes=self.schedule.deletes,
        )
        pid, main, heart = await begin(drive, order)
        self.pids.append(pid)
        driver = Driver(number, start, corpus, self.steps, pid, main, heart)
        driver.base, driver.heard_at = self.checker.latest, self.time
        driver.pending = [(1 + int(each.at * self.typical), each) for each in start.faults]
        self.drivers.append(driver)
        self.ports[port] = driver
        self.outcome.runs += 1
        self.tell(f"{driver} starts on {start.machine}{', and takes over' * start.take_over}")
        self.tasks += [
            asyncio.create_task(listen_to_main(driver, self.tell_time)),
            asyncio.create_task(listen_to_heart(driver, self.tell_time)),
        ]
        self.moving = driver
        driver.at = await driver.points.get()
        await self.arrived_at(driver, driver.at)
        return driver

    async def step(self, driver: Driver) -> None:
        """Let a run go on to its next point, or let happen to it what is due."""
        self.steps += 1
        self.moving = driver
        point = driver.at
        assert point is not None
        if point.name == "waits":
            await self.pass_time(point.message["wait"])
        elif not point.is_end:
            driver.passed += 1
            for fault in self.due(driver, point):
                await FAULTS[fault.kind](self, driver, point, fault)
                if not driver.is_active:
                    return
        if driver.at is not None:  # nothing has answered the request yet
            driver.release(point.answer or (self.store.execute(point.request) if point.request else None))
        driver.at = await driver.points.get()
        await self.arrived_at(driver, driver.at)

    def due(self, driver: Driver, point: Point) -> list[Fault]:
        """The faults that happen at a point; some happen at requests only."""
        can = [
            each
            for each in driver.pending
            if each[0] <= driver.passed and (point.request is not None or each[1].kind not in AT_REQUESTS)
        ]
        goes_on = [each for each in can if each[1].kind in GOES_ON]
        found = [*goes_on, *[each for each in can if each not in goes_on][:1]]  # one that answers or ends, as the last
        driver.pending = [each for each in driver.pending if each not in found]
        return [fault for _, fault in found]

    async def arrived_at(self, driver: Driver, point: Point) -> None:
        """Note where a run stands."""
        if "event" in point.message and point.name != "UpkeepPostponed":  # by which upkeep after publishing may end
            driver.told = self.steps
        if "event" in point.message and not driver.has_heart:
            await driver.resting.wait()  # its heart has started
            driver.has_heart = True
        if point.is_end:
            message = point.message
            driver.release()
            code = driver.bury()
            what = message.get("ended", f"exit code {code}")
            self.tell(f"{driver} ends after {driver.passed} points: {what}")
            driver.at = point
            if what == "done":
                self.typical = driver.passed
            self.checker.ended(driver, what, message)

    def wake(self, driver: Driver) -> None:
        """A suspended run goes on."""
        driver.wakes = None
        self.tell(f"{driver} goes on")

    # Time

    def tell_time(self, driver: Driver, clock: str) -> float:
        """What a clock shows, in seconds: that on the wall may be wrong."""
        return self.time + (self.skew[driver.start.machine] if clock == "wall" else 0)

    async def pass_time(self, seconds: float) -> None:
        """Time passes for everybody; the hearts of those that are awake beat."""
        until = self.time + seconds
        while True:
            beating = [each for each in self.drivers if each.is_active and each.has_heart and each.beat_due <= until]
            if not beating:
                break
            driver = min(beating, key=lambda each: each.beat_due)
            self.time = max(self.time, driver.beat_due)
            driver.resting.clear()
            driver.beating = True
            driver.heart.say()
            await driver.resting.wait()
            driver.beating = False
            if not driver.mute and not driver.denied:
                driver.heard_at = self.time
        self.time = until

    # The store

    async def handle(self, port: int, request: Request) -> Answer:
        """What comes of a request."""
        driver = self.ports.get(port)
        if driver is None:
            return self.store.execute(request)
        if not driver.alive:
            return CLOSED
        if request.key and (driver.denied or (driver.beating and driver.mute)):  # Lance tries listings for seconds
            return DENIED
        if driver.slow:
            driver.slow -= 1
            return SLOW_DOWN
        if driver.beating or not COUNTED.match(request.kind):
            return self.store.execute(request)
        return await driver.gated(request)

    def written(self, key: str, content: bytes) -> None:
        """Something is in the store: perhaps a version of the table, or another one is published."""
        if TAG.match(key):
            version = json.loads(content)["version"]
            self.tell(f"published is version {version}" + (f", by {self.moving}" if self.moving else ""))
            self.checker.moved(version, self.moving)
        elif found := MANIFEST.match(key):
            number = int(found[1])
            number = NEWEST_FIRST - number if number > NEWEST_FIRST // 2 else number
            self.checker.committed(number, self.moving, self.steps)
            before, self.holder = self.holder, self.holder_in(content)
            if before and self.holder and self.holder is not before:
                self.checker.took_over(self.holder, before, self.time - before.heard_at)

    def holder_in(self, manifest: bytes) -> Driver | None:
        """The run that holds the table in a version."""
        pids = [int(pid) for pid in HELD.findall(manifest)][-1:]  # the transaction that it may have as well comes first
        return next((driver for driver in self.drivers if [driver.pid] == pids), None)

    async def arrive(self, everything: bool = False) -> None:
        """Requests that were on their way for a long time arrive."""
        for due, driver, request in self.late:
            if everything or due <= self.steps:
                self.moving = driver
                answer = self.store.execute(request)
                self.tell(f"{request.kind} of {driver} arrives, and is answered {answer.status}")
        self.late = [each for each in self.late if not everything and each[0] > self.steps]

    # The others

    async def another(self, function: Callable, name: str) -> Line:
        """Start a process that is no run."""
        order = Order("", name, f"http://127.0.0.1:{self.port}", self.folder / f"{name}.log")
        pid, main, _ = await begin(function, order)
        self.pids.append(pid)
        return main

    async def look(self) -> None:
        """Readers look at every version that is new, and at what is published."""
        for version in self.checker.unseen():
            found = await self.reader.ask(look=version)
            self.checker.seen(version, found["rows"], found["faults"])
        self.checker.judge()

    async def write(self, what: str) -> None:
        """Another client writes to the table, while a run stands still."""
        before, self.moving = self.moving, None
        if not any(MANIFEST.match(key) for key in self.store.objects):
            return
        key = self.chosen(what)
        if key is not None:
            done = await self.meddler.ask(do=what.split()[0], id=key)
            self.checker.meddled(what, key, self.steps, done["done"])
            how = "" if done["done"] else f": {'a conflict' if done.get('conflict') else done['message']}"
            self.tell(f"another client: {what} {key}{how}")
        self.moving = before

    def chosen(self, what: str) -> str | None:
        """The id that another client writes."""
        if what == "append":
            self.guests += 1
            return f"{GUEST}{self.guests}"
        there = {"compact": [""], "delete guest": self.checker.guests, "delete row": self.checker.published_ids()}[what]
        return self.chance.choice(sorted(there)) if there else None

    def tell(self, what: str) -> None:
        """Add to the history."""
        self.outcome.history.append(f"{self.steps:5d} {what}")

    def end(self) -> None:
        """No process outlives the world."""
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
