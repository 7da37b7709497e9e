"""Simulate the job under faults, seed by seed: see --help."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator

REPLAY = "python -m tests.simulate --first {seed} --seeds 1 --history"
PROGRESS_EVERY = 20  # seeds


def main() -> int:
    """Simulate the seeds that are asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to simulate")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="worlds at the same time")
    parser.add_argument("--history", action="store_true", help="say what happened in each world")
    parser.add_argument("--stop", action="store_true", help="end at the first seed that fails")
    options = parser.parse_args()
    began, runs, kills, failed, digests = time.monotonic(), 0, 0, list[int](), hashlib.blake2b(digest_size=8)
    for done, outcome in enumerate(outcomes(range(options.first, options.first + options.seeds), options.jobs), 1):
        runs, kills = runs + outcome.runs, kills + outcome.kills
        digests.update(outcome.digest.encode())
        if options.history or outcome.faults:
            print(f"seed {outcome.seed}, history {outcome.digest}:", *outcome.history, sep="\n")
        for fault in outcome.faults:
            print(f"BROKEN: {fault}")
        if outcome.faults:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed} fails. Replay it: {REPLAY.format(seed=outcome.seed)}", flush=True)
            if options.stop:
                break
        if done % PROGRESS_EVERY == 0:
            print(
                f"{done} of {options.seeds} seeds in {time.monotonic() - began:.0f} s, {len(failed)} failed", flush=True
            )
    seconds = time.monotonic() - began
    print(
        f"{options.seeds} seeds in {seconds:.0f} s (histories {digests.hexdigest()}): "
        f"{runs} runs, {kills} killed; failed: {failed or 'none'}"
    )
    return 1 if failed else 0


def outcomes(seeds: range, jobs: int) -> Iterator:
    """What comes of each seed, in their order. Every world is a fork of a process that has everything imported."""
    from tests.simulate.seeds import in_a_new_folder, prepare

    prepare()
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # it has not been used before the fork
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(in_a_new_folder, seeds)


if __name__ == "__main__":
    sys.exit(main())
