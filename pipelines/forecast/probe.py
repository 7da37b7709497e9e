"""A probe: some records go through the stages of a run, again and again, until it is known how fast that is."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset, TaskPoolStrategy

from pipelines.batch_stats import SECONDS, added_amounts, measured, split_stats
from pipelines.cluster.streaming import stream_blocks
from pipelines.records import embeddable
from pipelines.stages.pool import Pool

MOST_TASKS: Final = 256
SHORTEST_WINDOW: Final = 1.0  # seconds; in less, a rate says nothing
FEWEST_BLOCKS: Final = 12


@dataclass(frozen=True)
class ProbeLimits:
    """How long a probe lasts after the first rows, in seconds: between these, until it is steady."""

    least: float = 15.0
    most: float = 60.0
    unsteady: float = 0.05  # how much the last two thirds may differ


@dataclass(frozen=True)
class Measured:
    """What a probe saw after its first third, in which processes warm up."""

    startup: float  # seconds until the first rows
    rows: int  # encoded
    seconds: float  # on the clock
    busy: Mapping[str, float]  # seconds of work by stage, added up over all tasks
    side_by_side: bool = True  # False if there were too few rows: `seconds` are those of the stages, added up

    @property
    def rows_per_second(self) -> float:
        """Rows that came out of the encoders."""
        return self.rows / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Block:
    """Records that arrived after so many seconds, encoded, and the work that they took."""

    after: float
    encoded: int
    busy: Mapping[str, float]


def probe(sample: pa.Table, rows: int, pool: Pool, limits: ProbeLimits = ProbeLimits()) -> Measured:
    """Send `sample` through the flow until `rows` went through, or the speed is known. Nothing is written."""
    began = time.monotonic()
    pool = dataclasses.replace(pool, store_images=False)  # so that what comes to the driver is small
    arrived: list[Block] = []
    copies = math.ceil(rows / len(sample))
    readers = min(pool.uses.readers, copies)
    blocks = stream_blocks(pool.encoded(repeated(sample, copies, pool.uses.read_cpus, readers), readers))
    with closing(blocks):
        for each in blocks:
            after = time.monotonic() - began
            # Tasks that count them would start workers, whose imports have the cores for seconds.
            arrived.append(Block(after, *counted(ray.get(each.refs))))
            if is_known([(block.after, block.encoded) for block in arrived], limits):
                break
    return after_warming_up(arrived)


def repeated(sample: pa.Table, copies: int, cpus: float, readers: int) -> Dataset:
    """The sample so many times, as the flow gets records from its source."""
    tasks = min(copies, MOST_TASKS)
    every = [{"copies": copies // tasks + (number < copies % tasks)} for number in range(tasks)]
    return ray.data.from_items(every, override_num_blocks=tasks).map_batches(
        functools.partial(copied, sample=ray.put(sample)),
        batch_size=1,
        num_cpus=cpus,
        compute=TaskPoolStrategy(size=readers),
    )


def copied(batch: dict[str, Any], sample: Any) -> Iterator[pa.Table]:
    """Copies of the sample, each as large as what readers yield at once."""
    for copies in batch["copies"]:
        for _ in range(copies):
            yield ray.get(sample)


def counted(blocks: Sequence[pa.Table]) -> tuple[int, dict[str, float]]:
    """How many records of some blocks are encoded, and the seconds that stages took for them."""
    encoded = sum(sum(embeddable(split_stats(block)[0])) for block in blocks)
    return encoded, added_amounts(*(measured(block, SECONDS) for block in blocks))


def is_known(points: Sequence[tuple[float, int]], limits: ProbeLimits) -> bool:
    """True if a probe is long enough: `points` are the seconds at which rows arrived, and how many."""
    first, last = points[0][0], points[-1][0]
    if last - first >= limits.most:
        return True
    if last - first < limits.least or len(points) < FEWEST_BLOCKS:
        return False
    totals = np.cumsum([rows for _, rows in points])
    edges = np.interp(np.linspace(first, last, 4)[1:], [after for after, _ in points], totals)
    before, after = np.diff(edges)
    return bool(abs(before - after) <= limits.unsteady * max(before, after))


def after_warming_up(blocks: Sequence[Block]) -> Measured:
    """What was measured after the first third of a probe; in one of few blocks, the work of all of them."""
    if not blocks:
        return Measured(0.0, 0, 0.0, {}, side_by_side=False)
    startup, last = blocks[0].after, blocks[-1].after
    start = next(number for number, block in enumerate(blocks) if block.after >= startup + (last - startup) / 3)
    seconds, steady = last - blocks[start].after, blocks[start + 1 :]
    if seconds < SHORTEST_WINDOW or len(steady) < FEWEST_BLOCKS / 3:
        busy = added_amounts(*(block.busy for block in blocks))
        return Measured(startup, sum(block.encoded for block in blocks), sum(busy.values()), busy, side_by_side=False)
    busy = added_amounts(*(block.busy for block in steady))
    return Measured(startup, sum(block.encoded for block in steady), seconds, busy)
