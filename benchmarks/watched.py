"""Run a part of a benchmark in a process of its own, and watch how much memory it and its Ray workers take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import psutil

SAMPLE_SECONDS = 0.5


def watched(*arguments: str) -> dict[str, Any]:
    """What a Python program prints as JSON in its last line, and peaks of the memory that its processes don't share.

    `worker_peak_mb` is that of one Ray worker, `peak_mb` that of the program and all its workers together; Ray's own
    processes are not among them. The program starts a Ray of its own.
    """
    environment = os.environ | {"RAY_ADDRESS": "local"}  # not on a Ray shared with others
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=environment)
    peaks = {"worker_peak_mb": 0.0, "peak_mb": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            try:
                driver = psutil.Process(process.pid)
                workers = [each for each in driver.children(recursive=True) if each.name().startswith("ray::")]
                own = [each.memory_full_info().uss / 1e6 for each in (driver, *workers)]
            except psutil.Error:
                continue
            peaks["worker_peak_mb"] = max(peaks["worker_peak_mb"], *own[1:], 0.0)
            peaks["peak_mb"] = max(peaks["peak_mb"], sum(own))

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    ended.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return json.loads(output.splitlines()[-1]) | peaks
