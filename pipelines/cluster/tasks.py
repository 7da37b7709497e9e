"""Run functions on workers: many calls side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from pipelines.cluster.logs import log_again, reporting, warnings_of
from pipelines.cluster.waiting import describe_ray, saying_why


def on_workers(function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Call `function` with each of the argument lists, a CPU each, on as many workers as there are.

    Warnings that it logs there are logged here, too.
    """
    results = dict(as_completed(function, calls))
    return [results[number] for number in range(len(calls))]


def as_completed(function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
    """The same, one after the other as they are done: the number of the call, and its result."""
    task: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(reporting(function))
    running = {task.remote(*arguments): number for number, arguments in enumerate(calls)}
    while running:
        try:
            with saying_why(f"no worker has finished {function.__name__}", describe_ray):
                [done], _ = ray.wait(list(running))
            result, warnings = ray.get(done)
        except Exception as error:
            log_again(warnings_of(error))
            raise
        log_again(warnings)
        yield running.pop(done), result
