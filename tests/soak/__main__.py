"""Night after night over a changing catalog, on a real S3 server and a real Ray, while processes are killed.

Other clients write to the table and readers search it meanwhile. At the end the table holds what the catalog says, no
reader saw a mixed state, and what the soak takes is flat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance

from tests.chaos.catalog import Catalog, Expected, catalog, changed, encoder, expected
from tests.chaos.running import TITLES, Running, command, environment, kill, start
from tests.model_folders import write_model
from tests.own_ray import own_ray
from tests.s3 import S3, serve
from tests.s3 import environment as of_the_store
from tests.soak.checks import check, whole
from tests.soak.other_writer import OtherWriter
from tests.soak.reader import Seen
from tests.soak.resources import Resources

ROOT = Path(__file__).resolve().parents[2]
NAME, SECOND = "products", "vector_b"
READERS = 2
CPUS = 4
KILLED = 0.6  # the share of commands that are killed
EVERY = {"index": 4, "backfill": 3}  # nights between two of these commands
OPTIONS = ("--retention-days", "0.0005", "--report", "none")  # 43 seconds
LONGEST_COMMAND = 600.0
DIES = ("driver", "driver", *TITLES)  # who is killed; of commands other than `embed` always the driver


class Soak:
    """The nights, and what is known of them."""

    def __init__(self, s3: S3, address: str, folder: Path, seed: int) -> None:
        self.s3, self.folder = s3, folder
        self.chance = random.Random(seed)
        self.variables = environment(address)
        self.began = time.monotonic()
        self.db = s3.url("soak-db")
        self.uri = f"{self.db}/{NAME}.lance"
        self.catalog: Catalog = catalog(files=3, rows=240)
        self.expected: Expected = Expected()
        self.nights, self.killed, self.faults = 0, Counter[str](), list[str]()
        self.commands: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.resources = Resources()
        self.model = write_model(folder / "other-model", "other", retrained=True)

    def night(self) -> None:
        """A changed catalog is embedded, and from time to time a column filled and an index built."""
        if self.nights:
            self.catalog = changed(self.catalog, self.chance)
        self.expected = expected(self.catalog, self.expected)
        source = self.catalog.store(self.s3, "soak")
        with (self.folder / "whole").open("a") as known:
            known.write(f"{whole(self.expected)}\n")
        self.nights += 1
        self.until_done("embed", [*command(source, self.db, NAME), *OPTIONS], DIES if self.nights > 1 else ())
        if self.nights % EVERY["backfill"] == 0:
            self.until_done("backfill", self.vista("backfill", "--column", SECOND, "--model", self.model), ("driver",))
        if self.nights % EVERY["index"] == 0:
            self.until_done("index", self.vista("index", "--kind", "IVF_PQ", "--recall", "0.5"), ("driver",))
        self.faults += check(self.uri, self.expected)
        self.resources.sample(self.s3, self.db, NAME)
        self.say(
            f"night {self.nights} is over: {dict(self.commands)}, killed {dict(self.killed)}, {len(self.faults)} faults"
        )

    def vista(self, name: str, *options: str) -> list[str]:
        """The command line of another command."""
        where = ["--db", self.db, "--table", NAME, "--report", "none"]
        return [sys.executable, str(ROOT / "jobs" / "vista.py"), name, *where, *options]

    def until_done(self, name: str, line: list[str], dies: tuple[str, ...]) -> None:
        """Run a command again and again until nobody kills it."""
        while True:
            began, job = time.monotonic(), start(line, self.variables)
            if dies and self.chance.random() < KILLED:
                self.kill(self.chance.choice(dies), job, self.seconds.get(name, 10.0))
            if not job.ended_within(LONGEST_COMMAND):
                job.process.kill()
                self.faults.append(f"{name} did not end in {LONGEST_COMMAND:g} s")
            ended = job.end()
            if ended.code == 0:
                self.commands[name] += 1
                self.seconds[name] = time.monotonic() - began
                return
            if ended.code != -9:
                self.faults.append(f"{name} ended with exit code {ended.code}: {ended.output[-1500:]}")
                return

    def kill(self, who: str, job: Running, seconds: float) -> None:
        """Kill a process at a random moment, unless the command is over."""
        if not job.ended_within(self.chance.uniform(0, seconds)) and kill(who, job):
            self.killed[who] += 1

    def say(self, what: str) -> None:
        """Tell whoever waits."""
        print(f"{time.monotonic() - self.began:5.0f} s: {what}", flush=True)


@contextmanager
def readers(soak: Soak) -> Iterator[list[Path]]:
    """Processes that read while the context lasts; yields where they keep their figures."""
    line = [sys.executable, "-m", "tests.soak.reader", soak.db, NAME, str(soak.folder)]
    running = [
        subprocess.Popen([*line, str(number)], cwd=ROOT, env=soak.variables | {"PYTHONPATH": str(ROOT)})
        for number in range(READERS)
    ]
    try:
        yield [soak.folder / f"reader-{number}.json" for number in range(READERS)]
        (soak.folder / "end").touch()
        for process in running:
            if process.wait(60):
                soak.faults.append(f"a reader ended with exit code {process.returncode}")
    finally:
        for process in running:
            process.kill()


def main() -> int:
    """Soak, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vista-soak-") as folder, serve(Path(folder) / "s3") as s3:
        os.environ |= of_the_store(s3.endpoint)
        with own_ray(CPUS, dashboard=False):
            import ray

            soak = Soak(s3, ray.get_runtime_context().gcs_address, Path(folder), options.seed)
            return run(soak, options.minutes)


def run(soak: Soak, minutes: float) -> int:
    """Night after night until the time is over; then the report."""
    soak.night()
    other = OtherWriter(soak.uri, encoder(), seed=1)
    with readers(soak) as figures:
        other.thread.start()
        try:
            while time.monotonic() - soak.began < 60 * minutes:
                soak.night()
        finally:
            other.ended.set()
            other.thread.join()
        soak.night()  # without another writer
    seen = [Seen(**json.loads(path.read_text())) for path in figures]
    table, growing = soak.resources.judged()
    faults = [*soak.faults, *other.faults(), *(fault for each in seen for fault in each.faults)]
    faults += [f"{name} grows" for name in growing]
    print(table)
    print(
        f"{soak.nights} nights; commands {dict(soak.commands)}; "
        f"{soak.killed.total()} processes were killed: {dict(soak.killed)}"
    )
    print(f"another writer: {dict(other.done)}, {other.conflicts} conflicts; version {lance.dataset(soak.uri).version}")
    for number, each in enumerate(seen):
        print(f"reader {number}: {each.reads} reads of {each.versions} published versions, {each.searches} searches")
    print(*(f"BROKEN: {fault}" for fault in faults), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
