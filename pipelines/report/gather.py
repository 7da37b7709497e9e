"""What a report reads from tables and stores, side by side and within a time limit: it must not hold up a job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any


def gather(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """The result of each call, or the exception that it raised; a TimeoutError for one that isn't done in time.

    A library that waits for a store can't be stopped. Its thread is left behind; it does not keep the process alive.
    """
    found: dict[str, Any] = {}

    def run(name: str, call: Callable[[], Any]) -> None:
        try:
            found[name] = call()
        except BaseException as error:  # noqa: BLE001 (whatever a library raises in this thread, a panic included)
            found[name] = error

    threads = [threading.Thread(target=run, args=each, daemon=True, name="report") for each in calls.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = TimeoutError(f"not done after {seconds:g} seconds")
    return {name: found.get(name, late) for name in calls}
