"""Run a part of a benchmark in a process of its own, and watch how much memory its Ray workers take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import psutil

SAMPLE_SECONDS = 0.5


def watched(module: str, *arguments: str) -> dict[str, float]:
    """The figures that a module prints as JSON in its last line, and the peak memory that one worker did not share.

    The process starts a Ray of its own.
    """
    environment = os.environ | {"RAY_ADDRESS": "local"}  # not on a Ray shared with others
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, env=environment)
    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if child.name().startswith("ray::"):
                        peak = max(peak, child.memory_full_info().uss / 1e6)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    ended.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    return json.loads(output.splitlines()[-1]) | {"worker_peak_mb": peak}
