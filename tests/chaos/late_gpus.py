"""Run the embedding job on a cluster without nodes. GPUs come one after another; then one of them is lost.

    python -m tests.chaos.late_gpus FOLDER ARGUMENTS OF jobs/embed_corpus.py

prints what it saw and the job's output, and exits with its exit code. The nodes have GPUs by name only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.tables.dataset import open_dataset
from tests.autoscaling import MEMORY, ROOT, autoscaling

NODES = {"encode": {"resources": {"CPU": 2, "GPU": 1, "object_store_memory": MEMORY}, "max_workers": 2}}
ENCODER = "ray::MapWorker(MapBatches(OnCpu))"
WAIT_SECONDS = 240


def raylets(head: int) -> list[psutil.Process]:
    """The nodes that run an encode actor."""
    found = []
    for each in psutil.Process(head).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if ENCODER in " ".join(each.cmdline()):
                found.append(each.parent())
    return found


def main(folder: Path, arguments: list[str]) -> int:
    """Returns the job's exit code."""
    table = f"{arguments[arguments.index('--db') + 1]}/{arguments[arguments.index('--table') + 1]}.lance"
    with autoscaling(folder, NODES, late_seconds=3) as environment, (folder / "job.log").open("w+") as log:
        words = [sys.executable, str(ROOT / "tests" / "pipelines" / "cluster" / "encodes_on_cpu.py"), *arguments]
        with subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log) as job:
            deadline = time.monotonic() + WAIT_SECONDS
            seen = 0
            while job.poll() is None and time.monotonic() < deadline:
                with_encoders = raylets(int(environment["VISTA_HEAD"]))
                if len(with_encoders) > seen:
                    seen = len(with_encoders)
                    print(f"{seen} nodes encode")
                dataset = open_dataset(table)
                if seen == 2 and dataset is not None and dataset.count_rows():
                    with_encoders[0].kill()
                    print("one of them was killed", flush=True)
                    break
                time.sleep(0.2)
            job.wait()
        log.seek(0)
        print(log.read())
    return job.returncode


if __name__ == "__main__":
    os.environ.pop("RAY_ADDRESS", None)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
