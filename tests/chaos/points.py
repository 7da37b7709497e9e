"""Run the embedding job, and die or halt at a point of it.

    python -m tests.chaos.points POINT N -- ARGUMENTS OF jobs/embed_corpus.py

sends SIGKILL to this process at the N-th time that it reaches POINT; `stop:POINT` sends SIGSTOP, and SIGCONT from
outside lets it go on. The job is as it always is: functions are wrapped from here.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

JOB = Path(__file__).resolve().parents[2] / "jobs" / "embed_corpus.py"
STOP = "stop:"
# Where a function is looked up when it is called (a module's global, or a class and its method), and on which side of
# the call the point is.
POINTS = {
    "before reading": ("pipelines.embed", "run", "before"),
    "after fragments are written": ("pipelines.sink.commit", "commit_table", "before"),
    "after the commit": ("pipelines.sink.commit", "commit_table", "after"),
    "before rejects": ("pipelines.sink.commit", "Committer.commit_rejects", "before"),
    "after rejects": ("pipelines.sink.commit", "Committer.commit_rejects", "after"),
    "before objects": ("pipelines.sink.commit", "Committer.record_objects", "before"),
    "after objects": ("pipelines.sink.commit", "Committer.record_objects", "after"),
    "before publish": ("pipelines.finish", "publish", "before"),
    "before the tag moves": ("pipelines.sink.publish", "move", "before"),
    "after publish": ("pipelines.finish", "publish", "after"),
}


def place(point: str) -> tuple[Any, str] | None:
    """The module or class of a point, and the name in it; None where the product has no such function."""
    module, attribute, _ = POINTS[point]
    owner: Any = importlib.import_module(module)
    *classes, name = attribute.split(".")
    for each in classes:
        owner = getattr(owner, each, None)
    return (owner, name) if hasattr(owner, name) else None


def wrap(point: str, time: int, number: signal.Signals) -> None:
    """Have this process send itself a signal at the `time`-th time that it reaches `point`."""
    found = place(point)
    if found is None:
        module, attribute, _ = POINTS[point]
        sys.exit(f"{point!r} is not there: {module} has no {attribute}")
    owner, name = found
    function, times = getattr(owner, name), itertools.count(1)
    before = POINTS[point][2] == "before"

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        now = next(times) == time
        if now and before:
            os.kill(os.getpid(), number)
        result = function(*arguments, **named)
        if now and not before:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[3] != "--" or sys.argv[1].removeprefix(STOP) not in POINTS:
        sys.exit(f"usage: python -m tests.chaos.points [{STOP}]POINT N -- ARGUMENTS, POINT one of {', '.join(POINTS)}")
    wanted = sys.argv[1]
    wrap(wanted.removeprefix(STOP), int(sys.argv[2]), signal.SIGSTOP if wanted.startswith(STOP) else signal.SIGKILL)
    sys.argv = [str(JOB), *sys.argv[4:]]
    runpy.run_path(str(JOB), run_name="__main__")
