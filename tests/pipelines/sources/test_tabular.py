"""Units that are parsed in a child process: what ends it is damage, if it does so twice."""

import functools
import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.cluster.child import ProcessLimits
from pipelines.sources.columns import Batch
from pipelines.sources.tabular import parsed_apart
from pipelines.storage.errors import SourceError

LIMITS = ProcessLimits(seconds=60, memory=1 << 30)
IMPATIENT = ProcessLimits(seconds=3, memory=1 << 30)


def parse(marker: Path | None = None, fault: str = ""):
    """Three batches. The third has a fault; with a marker the process is killed before the second and third, once."""
    for number in range(3):
        done = marker and marker.with_suffix(f".{number}")
        if number and done and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        values = pa.array([f"text {number}"])
        if number == 2 and fault == "aborts":
            os.abort()
        if number == 2 and fault == "hangs":
            signal.pause()
        if number == 2 and fault == "store":
            raise SourceError("the store failed")
        if number == 2 and fault == "offsets":
            far = pa.array([0, 1 << 30], pa.int32()).buffers()[1]
            values = pa.StringArray.from_buffers(1, far, pa.py_buffer(b"short"))
        yield Batch(pa.table({"text": values}), range(number, number + 1), {0: number} if number == 1 else {})


def rows(batches) -> list[int]:
    return [row for batch in batches for row in batch.rows]


def test_a_child_that_is_killed_costs_nothing(tmp_path):
    found = list(parsed_apart(functools.partial(parse, tmp_path / "killed"), LIMITS))
    assert len(list(tmp_path.iterdir())) == 2, "it was killed twice, but never for the same batch"
    assert [batch.table["text"].to_pylist() for batch in found] == [[f"text {number}"] for number in range(3)]
    assert [batch.rejects for batch in found] == [{}, {0: 1}, {}]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("aborts", pa.ArrowInvalid, "while this part was read, the process died of SIGABRT"),
        ("hangs", pa.ArrowInvalid, "while this part was read, the process gave no result for 3 seconds"),
        ("offsets", pa.ArrowInvalid, "binary offsets"),
        ("store", SourceError, "the store failed"),
    ],
)
def test_what_came_before_a_fault_is_kept(fault, error, message):
    limits = IMPATIENT if fault == "hangs" else LIMITS
    batches = parsed_apart(functools.partial(parse, fault=fault), limits)
    assert rows([next(batches), next(batches)]) == [0, 1]
    with pytest.raises(error, match=message):
        next(batches)
