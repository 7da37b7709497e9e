"""Run jobs in separate processes, which can be killed, on the Ray that the tests share."""

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

from pipelines.tables.dataset import open_dataset

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.005  # between two polls
WAIT_SECONDS = 120
TITLES = {"encoder": "EncodeActor", "writer": "write_bundle"}  # of the workers that are killed


def arguments(source: str, db: str, name: str) -> list[str]:
    """The job's options. It commits as often as possible, so that there are many commits to disturb."""
    return ["--source", source, "--db", db, "--table", name, "--commit-seconds", "0"]


def command(source: str, db: str, name: str) -> list[str]:
    """The job's command line."""
    return [sys.executable, str(ROOT / "jobs" / "embed_corpus.py"), *arguments(source, db, name)]


def command_to(point: str, time: int, source: str, db: str, name: str) -> list[str]:
    """The command line of a job that is killed or stopped at a point: see `points`."""
    return [sys.executable, "-m", "tests.chaos.points", point, str(time), "--", *arguments(source, db, name)]


def environment(address: str, endpoint: str | None = None) -> dict[str, str]:
    """Variables by which a job finds Ray and, if `endpoint` is given, a different S3 server than the tests' own."""
    found = os.environ | {"RAY_ADDRESS": address}
    if endpoint is None:
        return found
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    variables |= {"AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": str(ROOT)}
    # Passed on the way `ray job submit` does it: otherwise workers have the variables that Ray was started with.
    return found | variables | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a process."""

    code: int
    output: str


@dataclass(frozen=True)
class Running:
    """A running process. Its output goes to a file, so it never blocks on a full pipe."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def end(self) -> Ended:
        """Wait until it ends."""
        code = self.process.wait()
        self.log.seek(0)
        with self.log:
            return Ended(code, self.log.read().decode(errors="replace"))

    def ended_within(self, seconds: float) -> bool:
        """True if it ends by itself within this time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stopped(self) -> bool:
        """Wait until it is stopped; False if it ended instead."""
        state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return state is not None and state.si_code == os.CLD_STOPPED

    def resume(self) -> None:
        """Resume it after it was stopped."""
        self.process.send_signal(signal.SIGCONT)


def start(command: list[str], environment: dict[str, str]) -> Running:
    """Start a process in the repository's root."""
    log = tempfile.TemporaryFile()  # noqa: SIM115
    return Running(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log), log)


def run(command: list[str], environment: dict[str, str]) -> Ended:
    """Start a process and wait until it ends."""
    return start(command, environment).end()


def wait_for_version(uri: str, version: int, running: Running) -> lance.LanceDataset:
    """Wait until a dataset has this version and return its latest one; fail if the job ends first."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and running.process.poll() is None:
        dataset = open_dataset(uri)
        if dataset is not None and dataset.version >= version:
            return dataset
        time.sleep(LOOK_SECONDS)
    raise AssertionError(
        f"{uri} never reached version {version}: {running.end() if running.process.poll() else 'time out'}"
    )


def wait_for_worker(title: str, running: Running) -> int | None:
    """Wait for a worker with this title below this process and return its pid; None if the job ended first."""
    while running.process.poll() is None:
        if found := workers(title):
            return found[0]
        time.sleep(LOOK_SECONDS)
    return None


def kill(kind: str, job: Running) -> bool:
    """Kill the driver, or the first worker of a kind that appears; False if the job ended first."""
    pid = job.process.pid if kind == "driver" else wait_for_worker(TITLES[kind], job)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def workers(title: str, below: int | None = None) -> list[int]:
    """The pids of Ray workers below a process (default: this one) whose title contains `title`.

    Ray titles a worker process after the actor or task that it runs. Ray's state API is no alternative: it reports
    tasks as short as these only when they are over.
    """
    top = os.getpid() if below is None else below
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # the process has ended
                continue

    def ours(pid: int) -> bool:
        while pid in parents and pid != top:
            pid = parents[pid]
        return pid == top

    return [pid for pid, text in titles.items() if text.startswith("ray::") and title in text and ours(pid)]
