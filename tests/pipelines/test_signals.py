"""SIGINT and SIGTERM end a process in order, a second one at once. Each case is a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.signals import deferred, keep_handlers, stopped_by, stopping_in_order

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys
from jobs import run
from pipelines.signals import deferred, keep_handlers, stopping_in_order

def wait():
    print("ready", flush=True)
    sys.stdin.read(1)

def job():
{body}

with stopping_in_order({seconds}):
    code = run(job)
sys.exit(code)
"""


def process(body: str, seconds: float = 60) -> subprocess.Popen[str]:
    """A job that is ready to get signals; what it does next is up to its standard input."""
    program = PROGRAM.format(body="\n".join(f"    {line}" for line in body.splitlines()), seconds=seconds)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, **pipes)
    assert started.stdout.readline() == "ready\n"
    return started


def line(started: subprocess.Popen[str]) -> str:
    return started.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_with_its_code_and_no_traceback(number):
    job = process("wait()")
    job.send_signal(number)
    _, said = job.communicate()
    assert job.returncode == 128 + number
    assert "Traceback" not in said
    assert f"WARNING jobs: stopped by {number.name}" in said.splitlines()[-1]


def test_what_is_deferred_is_finished_first_even_if_nested():
    job = process("with deferred():\n    with deferred():\n        wait()\n    print('finished')\nprint('went on')")
    job.send_signal(signal.SIGTERM)
    assert "SIGTERM: stopping" in line(job)
    printed, said = job.communicate("x")
    assert (job.returncode, printed) == (143, "finished\n"), said


def test_a_second_signal_ends_at_once():
    job = process("with deferred():\n    wait()")
    job.send_signal(signal.SIGTERM)
    assert "SIGTERM: stopping" in line(job)
    while job.poll() is None:  # one that follows within a fraction of a second counts as the same stop
        job.send_signal(signal.SIGINT)
        try:
            job.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    assert job.returncode == 130
    assert "SIGINT, the second signal: ends at once" in job.stderr.read()


def test_one_stop_that_arrives_twice_is_one():
    """`timeout` signals its child, and then the child's process group."""
    body = "with deferred():\n    os.kill(os.getpid(), 15); os.kill(os.getpid(), 15)\n    wait()\n    print('finished')"
    job = process(body)
    assert "SIGTERM: stopping" in line(job)
    printed, said = job.communicate("x")
    assert (job.returncode, printed) == (143, "finished\n"), said


def test_a_job_that_does_not_end_in_time_is_ended():
    job = process("with deferred():\n    wait()", seconds=0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert "SIGTERM, and not ended after 0.2 seconds: ends at once" in job.stderr.read()


def test_an_error_that_a_signal_caused_is_said_with_it():
    body = "try:\n    wait()\nexcept KeyboardInterrupt:\n    raise RuntimeError('the library fell over') from None"
    job = process(body)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate()
    assert job.returncode == 143
    assert "stopped by SIGTERM: the library fell over" in said
    assert "Traceback" not in said


def test_the_handler_that_ray_sets_does_not_stay():
    rays = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"
    for body in (f"with keep_handlers():\n    {rays}\nwait()", f"with keep_handlers():\n    {rays}\n    wait()"):
        job = process(body)
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate()
        assert job.returncode == 143
        assert "stopped by SIGTERM" in said


def test_the_handlers_of_a_caller_are_back_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopping_in_order():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_of_the_main_thread_and_without_handlers_nothing_changes():
    found = []

    def job() -> None:
        with stopping_in_order(), deferred(), keep_handlers():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
    assert stopped_by(ValueError()) is None
    assert stopped_by(KeyboardInterrupt()) == signal.SIGINT
