"""What this project expects of Ray's `iter_internal_ref_bundles`, so that a new version of Ray fails here first."""

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from pipelines.cluster.session import start_ray
from pipelines.cluster.streaming import Blocks, stream_blocks
from pipelines.storage.errors import explained
from vista_core import VistaError

ROWS = 500


@pytest.fixture(autouse=True, scope="module")
def session(ray_cluster):
    """Ray Data with the settings of a job."""
    start_ray()


def numbered(batch: pa.Table) -> pa.Table:
    """A row as heavy as 1,000 bytes for each number."""
    return batch.append_column("payload", pa.array([bytes(1000)] * len(batch), pa.binary()))


def dataset(blocks: int = 5) -> ray.data.Dataset:
    numbers = ray.data.range(ROWS, override_num_blocks=blocks)
    return numbers.map_batches(numbered, batch_format="pyarrow", num_cpus=0.5)


@ray.remote
def ids_in(*blocks: pa.Table) -> list[list[int]]:
    return [block["id"].to_pylist() for block in blocks]


def test_every_block_is_there_once_and_can_be_given_to_a_task():
    refs = [ref for blocks in stream_blocks(dataset()) for ref in blocks.refs]
    found = ray.get(ids_in.remote(*refs))
    assert len(found) >= 5
    assert sorted(number for block in found for number in block) == list(range(ROWS))


def test_rows_and_bytes_are_known():
    for blocks in stream_blocks(dataset()):
        contents = ray.get(blocks.refs)
        assert blocks.rows == sum(len(content) for content in contents) > 0
        assert blocks.bytes >= 1000 * blocks.rows
        assert blocks.bytes == pytest.approx(sum(content.nbytes for content in contents), rel=0.1)


def test_a_dataset_without_rows_ends_at_once():
    empty = ray.data.range(3, override_num_blocks=3).map_batches(
        lambda batch: batch.slice(0, 0), batch_format="pyarrow"
    )
    assert sum(blocks.rows for blocks in stream_blocks(empty)) == 0


def test_blocks_come_before_the_last_unit_is_read(tmp_path: Path):
    """The last unit waits until the first block has been seen, so this would never end if blocks came all at once."""
    seen = tmp_path / "seen"

    def read(batch: pa.Table) -> pa.Table:
        if batch["id"].to_pylist() == [7]:
            deadline = time.monotonic() + 60
            while not seen.exists():
                assert time.monotonic() < deadline, "no block came meanwhile"
                time.sleep(0.05)
        return batch

    units = ray.data.range(8, override_num_blocks=8)
    flow = units.map_batches(read, batch_format="pyarrow", batch_size=1, compute=TaskPoolStrategy(size=2))
    stream = stream_blocks(flow)
    first = next(stream)
    assert isinstance(first, Blocks)
    seen.touch()
    assert first.rows + sum(blocks.rows for blocks in stream) == 8


def function(batch: pa.Table) -> pa.Table:
    raise VistaError("this stage always fails")


def generator(batch: pa.Table) -> Iterator[pa.Table]:
    yield batch
    raise VistaError("this stage always fails")


class Actor:
    def __call__(self, batch: pa.Table) -> pa.Table:
        raise VistaError("this stage always fails")


class FailsToStart(Actor):
    def __init__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("stage", [function, generator, Actor])
def test_the_error_of_a_stage_is_raised_with_its_type(stage):
    pool = {"compute": ActorPoolStrategy(size=1)} if isinstance(stage, type) else {}
    failing = ray.data.range(3).map_batches(stage, batch_format="pyarrow", num_cpus=0.5, **pool)
    with pytest.raises(VistaError, match="this stage always fails") as raised:
        list(stream_blocks(failing))
    assert explained(raised.value) == "this stage always fails", "and nothing of Ray's is said"


@pytest.mark.parametrize("error", [VistaError("no weights"), OSError("two\n  lines")])
def test_an_actor_that_fails_to_start_ends_the_stream_with_its_cause(error):
    """Ray keeps only the text of its error."""
    pool = ActorPoolStrategy(size=1)
    failing = ray.data.range(3).map_batches(
        FailsToStart, batch_format="pyarrow", num_cpus=0.5, compute=pool, fn_constructor_args=(error,)
    )
    with pytest.raises(VistaError) as raised:
        list(stream_blocks(failing))
    name = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    assert str(raised.value) == f"an encode actor could not start: {name}: {error}"
