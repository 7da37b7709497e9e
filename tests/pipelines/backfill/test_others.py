"""Whatever other clients do to a table while a column of it is filled, each row has its own vector in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lance
import numpy as np
import pytest
import ray

from pipelines.backfill.run import Setup
from pipelines.tables.search_setting import vector_indexes
from tests.pipelines.backfill.others import OPERATIONS, Following, Meddling
from tests.pipelines.backfill.tables import COLUMN, backfill, check, make
from tests.pipelines.backfill.test_backfill import Counting

# Where a run may be disturbed, in the order in which it gets there.
POINTS = (
    "Reading",
    "Arrived",
    "VectorsParked",
    "FragmentsWritten",
    "TableCommitted",
    "RejectsCommitted",
    "BundleCommitted",
    "ReadingEnded",
    "Judged",
)
OFTEN = {"commit_seconds": 0, "transport_rows": 8}  # commits and parks after each block


def expect_indexes_to_find_all(table: lance.LanceDataset) -> None:
    """An index on the column finds the vectors that were filled after it was built."""
    if not vector_indexes(table, COLUMN):
        return
    rows = table.to_table(columns=["sku", COLUMN], filter=f"{COLUMN} IS NOT NULL").to_pylist()
    for row in rows[:: max(1, len(rows) // 10)]:
        nearest = {"column": COLUMN, "q": np.array(row[COLUMN], np.float32), "k": 1, "metric": "cosine"}
        [found] = table.to_table(columns=[COLUMN], nearest=nearest).to_pylist()
        assert found["_distance"] < 1e-3


@pytest.mark.parametrize("start", range(3))
def test_a_run_survives_all_that_others_do(ray_cluster, tmp_path, start):
    uri = make(tmp_path)
    names = [*OPERATIONS]
    following = Following(uri, POINTS[start::3], (names[start * 3 :] + names[: start * 3]) * 2)
    backfill(tmp_path, Setup(listeners=[following]), **OFTEN)
    backfill(tmp_path)  # what arrived in the last moments
    expect_indexes_to_find_all(check(uri))
    assert len(following.done) >= 3, following.done


def test_a_compaction_costs_no_encoding(ray_cluster, tmp_path):
    uri, counting = make(tmp_path), Counting(tmp_path / "encoded")
    for number, point in enumerate(("VectorsParked", "FragmentsWritten")):
        Path(tmp_path / "encoded").unlink(missing_ok=True)
        meddling = Meddling(uri, point, ["change_prices", "compact"])
        column = f"column_{number}"
        setup = Setup(listeners=[meddling], stages=counting.stages())
        summary = backfill(tmp_path, setup, column=(column,), **OFTEN)
        table = check(uri, column)
        assert meddling.is_done
        assert counting.encoded == Counter(
            row["sku"] for row in table.to_table().to_pylist() if row[column] is not None
        )
        assert summary.outcome.moved


def killed(db: Path, point: str, operation: str) -> subprocess.CompletedProcess:
    """Run in a process of its own, which kills itself at a point, on the Ray of the tests."""
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "tests.pipelines.backfill.killed", point, operation, str(db)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("point", ["VectorsParked", "TableCommitted"])
def test_a_killed_run_is_continued_and_encodes_nothing_again(ray_cluster, tmp_path, point):
    uri, counting = make(tmp_path), Counting(tmp_path / "encoded")
    done = killed(tmp_path, point, "nothing")
    assert done.returncode == -signal.SIGKILL, done.stderr
    summary = backfill(tmp_path, Setup(stages=counting.stages()))
    check(uri)
    # What was parked or committed when the run was killed is not encoded again.
    assert summary.counts.written + summary.counts.unchanged
    assert sum(counting.encoded.values()) < 57


@pytest.mark.chaos
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_after_others_changed_the_table_is_continued(ray_cluster, tmp_path, point, operation):
    uri = make(tmp_path)
    done = killed(tmp_path, point, operation)
    assert done.returncode == -signal.SIGKILL, done.stderr
    backfill(tmp_path)
    expect_indexes_to_find_all(check(uri))
    assert not backfill(tmp_path).counts.written
