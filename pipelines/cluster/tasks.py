"""Run functions on workers: many calls side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from pipelines.cluster.logs import log_again, reporting, warnings_of
from pipelines.cluster.waiting import describe_ray, saying_why


def on_workers(function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Call `function` with each of the argument lists, a CPU each, on as many workers as there are.

    Warnings that it logs there are logged here, too.
    """
    task: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(reporting(function))
    try:
        with saying_why(f"no worker has finished {function.__name__}", describe_ray):
            results = ray.get([task.remote(*arguments) for arguments in calls])
    except Exception as error:
        log_again(warnings_of(error))
        raise
    for _, warnings in results:
        log_again(warnings)
    return [result for result, _ in results]
