"""Jobs as processes of their own, which can be killed, on the Ray that the tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import lance

from pipelines.sink.table import open_dataset

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.005  # between two looks at what is waited for
WAIT_SECONDS = 120


def arguments(source: str, db: str, name: str) -> list[str]:
    """The job's options; it commits whatever has arrived, so that there are many commits to disturb."""
    return ["--source", source, "--db", db, "--table", name, "--commit-seconds", "0"]


def command(source: str, db: str, name: str) -> list[str]:
    """The job's command line."""
    return [sys.executable, str(ROOT / "jobs" / "embed_corpus.py"), *arguments(source, db, name)]


def command_to(point: str, time: int, source: str, db: str, name: str) -> list[str]:
    """The same, which dies or halts at a point: see `points`."""
    return [sys.executable, "-m", "tests.chaos.points", point, str(time), "--", *arguments(source, db, name)]


def environment(address: str, endpoint: str | None = None) -> dict[str, str]:
    """Variables by which a job finds Ray, and another S3 server than the tests' own, if it is to."""
    found = os.environ | {"RAY_ADDRESS": address}
    if endpoint is None:
        return found
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    variables |= {"AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": str(ROOT)}
    # As `ray job submit` hands them over: the workers of a Ray that is up have the variables that it was started with.
    return found | variables | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed."""

    code: int
    output: str


@dataclass(frozen=True)
class Running:
    """A process whose output goes to a file, so that nobody has to read it meanwhile."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def end(self) -> Ended:
        """Wait for it."""
        code = self.process.wait()
        self.log.seek(0)
        with self.log:
            return Ended(code, self.log.read().decode(errors="replace"))

    def ended_within(self, seconds: float) -> bool:
        """Whether it ends by itself in this time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stopped(self) -> bool:
        """Wait until it is stopped; False if it ended instead."""
        state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return state is not None and state.si_code == os.CLD_STOPPED

    def go_on(self) -> None:
        """After it was stopped."""
        self.process.send_signal(signal.SIGCONT)


def start(command: list[str], environment: dict[str, str]) -> Running:
    """Start a process in the repository's root."""
    log = tempfile.TemporaryFile()  # noqa: SIM115
    return Running(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log), log)


def run(command: list[str], environment: dict[str, str]) -> Ended:
    """Start a process and wait until it ends."""
    return start(command, environment).end()


def wait_for_version(uri: str, version: int, running: Running) -> lance.LanceDataset:
    """Wait until a dataset has this version, and return its latest; the job must not end before."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and running.process.poll() is None:
        dataset = open_dataset(uri)
        if dataset is not None and dataset.version >= version:
            return dataset
        time.sleep(LOOK_SECONDS)
    raise AssertionError(
        f"{uri} never had version {version}: {running.end() if running.process.poll() else 'time out'}"
    )


def wait_for_worker(title: str, running: Running) -> int | None:
    """A worker of this process's Ray that does what `title` says, as soon as there is one; None once the job ended."""
    while running.process.poll() is None:
        if found := workers(title):
            return found[0]
        time.sleep(LOOK_SECONDS)
    return None


def workers(title: str, below: int | None = None) -> list[int]:
    """Workers below a process, default this one, that do what `title` says: Ray names them after their actor or task.

    Ray's state API knows of a task only when it is over, where the task is as short as here.
    """
    top = os.getpid() if below is None else below
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it ended meanwhile
                continue

    def ours(pid: int) -> bool:
        while pid in parents and pid != top:
            pid = parents[pid]
        return pid == top

    return [pid for pid, text in titles.items() if text.startswith("ray::") and title in text and ours(pid)]
