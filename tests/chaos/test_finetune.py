"""A training whose processes are killed over and over ends with the losses of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.pipelines.finetune.drawn import write_data

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]
KILLS, STEPS, SAVE_EVERY, WAIT_SECONDS = 5, 48, 6, 180


def start(folder: Path, output: str) -> subprocess.Popen[bytes]:
    address = ray.get_runtime_context().gcs_address
    options = ["--data", folder / "train", "--output", folder / output, "--trained", "all", "--batch", 12]
    options += ["--steps", STEPS, "--checkpoint-steps", SAVE_EVERY, "--learning-rate", 1e-3, "--validation", 0]
    with (folder / f"{output}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "finetune.py"), *map(str, options)],
            env=os.environ | {"RAY_ADDRESS": address},
            stdout=log,
            stderr=log,
        )


def checkpoints(folder: Path, output: str) -> set[str]:
    return {path.name for path in (folder / output / "checkpoints").glob("checkpoint_*") if any(path.iterdir())}


def losses(folder: Path, output: str) -> list[float]:
    return [loss for *_, loss in json.loads((folder / output / "training.json").read_text())["losses"]]


@pytest.mark.timeout(900)
def test_killed_five_times_the_losses_are_those_of_an_undisturbed_training(ray_cluster, tmp_path):
    write_data(tmp_path / "train")
    assert start(tmp_path, "undisturbed").wait(WAIT_SECONDS) == 0, (tmp_path / "undisturbed.log").read_text()
    seen = set[str]()
    for kill in range(KILLS):
        driver, deadline = start(tmp_path, "killed"), time.monotonic() + WAIT_SECONDS
        while not (new := checkpoints(tmp_path, "killed") - seen):
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "killed.log").read_text()
            time.sleep(0.01 * (kill + 1))  # each time at another moment after the checkpoint
        seen |= new
        driver.kill()
        driver.wait()
        for path in (tmp_path / "train").glob("*.jsonl"):  # what it is trained with was kept
            path.unlink()
    assert start(tmp_path, "killed").wait(WAIT_SECONDS) == 0, (tmp_path / "killed.log").read_text()
    expected = losses(tmp_path, "undisturbed")
    assert len(expected) == STEPS
    assert losses(tmp_path, "killed") == pytest.approx(expected, rel=1e-6)
