"""`make fuzz`: give damaged and hostile inputs to everything that takes bytes from strangers.

    python -m tests.fuzz.run [--inputs 100000] [--seed N] [--only NAME ...]

Each target runs in processes of its own. A process that dies, takes too long or too much memory on an input has found
a defect, as one that raises what it shouldn't. The input, as small as hypothesis could make it, is written to
`tests/fuzz/found/TARGET/`; commit it with the mend, and `tests/fuzz/test_found.py` keeps it mended. The same seed gives
the same inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import re
import secrets
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import hypothesis

from tests.fuzz.targets import TARGETS, Target

FOUND = Path(__file__).parent / "found"
PROCESSES = 2
SECONDS = 10.0  # for one input, on a machine that does other things, too
MEMORY = 1 << 30  # bytes, by which one input may raise the peak of the process
PART = 1_000  # inputs a process is given at once; a new one has nothing left of what went wrong before


@dataclass
class Result:
    """What came of one part of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    slowest: float = 0.0  # seconds
    most_memory: int = 0  # bytes
    defect: str = ""


def memory(name: str) -> int:
    """A figure of this process in bytes: VmRSS (now) or VmHWM (the peak since it was reset)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def examine(target: Target, data: bytes, result: Result) -> None:
    """Run one input, within the limits."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = memory("VmRSS"), time.monotonic()
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # also when native code never returns
    result.accepted += target.run(data)
    faulthandler.cancel_dump_traceback_later()
    seconds, taken = time.monotonic() - began, memory("VmHWM") - before
    result.inputs += 1
    result.slowest, result.most_memory = max(result.slowest, seconds), max(result.most_memory, taken)
    assert seconds <= SECONDS, f"took {seconds:.1f} s"
    assert taken <= MEMORY, f"took {taken >> 20} MiB"


def part(name: str, inputs: int, seed: int, folder: str) -> None:
    """In a process of its own: run one part, and write the result, and before each input the input itself."""
    [target] = [each for each in TARGETS if each.name == name]
    result, current = Result(), Path(folder, "input")

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(target.inputs)
    def all_inputs(data: bytes) -> None:
        current.write_bytes(data)
        examine(target, data, result)

    with Path(folder, "stderr").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)  # native libraries print what they think of the inputs
        faulthandler.enable()
        try:
            all_inputs()
        except BaseException:  # noqa: BLE001 - whatever it is, it is the result; the input that was run last is the smallest one
            result.defect = traceback.format_exc()
    Path(folder, "result").write_text(json.dumps(asdict(result)))


def run_part(target: Target, inputs: int, seed: int) -> Result:
    """Start a process for one part, and keep the input that it failed or died of."""
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("spawn").Process(target=part, args=(target.name, inputs, seed, folder))
        process.start()
        process.join()
        written = Path(folder, "result")
        if written.exists():
            result = Result(**json.loads(written.read_text()))
        else:
            result = Result(
                defect=f"the process ended with {process.exitcode}:\n{Path(folder, 'stderr').read_text()[-4000:]}"
            )
        if result.defect:
            keep(target, Path(folder, "input").read_bytes(), seed, result.defect)
    return result


def keep(target: Target, data: bytes, seed: int, defect: str) -> None:
    """Write an input that found a defect, and say how."""
    path = FOUND / target.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"\n{target.name}: DEFECT with seed {seed}, input {path} ({len(data):,} bytes)\n{defect}", flush=True)


def fuzz(target: Target, inputs: int, seed: int) -> Result:
    """All inputs of a target, in parts. The line with its figures is printed at the end."""
    total, began, defects = Result(), time.monotonic(), 0
    for number in range(0, inputs, PART):
        result = run_part(target, min(PART, inputs - number), seed + number)
        total.inputs += result.inputs
        total.accepted += result.accepted
        total.slowest = max(total.slowest, result.slowest)
        total.most_memory = max(total.most_memory, result.most_memory)
        defects += bool(result.defect)
    share = total.accepted / max(1, total.inputs)
    print(
        f"{target.name:10} {total.inputs:8,} inputs, {share:4.0%} accepted, slowest {1000 * total.slowest:6.0f} ms, "
        f"most memory {total.most_memory >> 20:4} MiB, {time.monotonic() - began:5.0f} s, defects: {defects}",
        flush=True,
    )
    total.defect = "found" * bool(defects)
    return total


def main() -> int:
    """Fuzz all targets, or those named. Returns 1 if a defect was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    parser.add_argument("--only", nargs="*", default=[], choices=[target.name for target in TARGETS])
    options = parser.parse_args()
    targets = [target for target in TARGETS if not options.only or target.name in options.only]
    shares = sum(1 / target.cost for target in targets)
    print(f"{options.inputs:,} inputs, seed {options.seed}", flush=True)
    with ThreadPoolExecutor(PROCESSES) as threads:
        inputs = [int(options.inputs / target.cost / shares) + 1 for target in targets]
        results = list(threads.map(fuzz, targets, inputs, [options.seed] * len(targets)))
    print(f"{sum(result.inputs for result in results):,} inputs in all")
    return int(any(result.defect for result in results))


if __name__ == "__main__":
    sys.exit(main())
