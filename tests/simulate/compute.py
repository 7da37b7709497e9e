"""What a run computes, in its own process instead of on Ray, with an encoder whose vectors anybody can compute."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.cluster.resources import Cluster
from pipelines.cluster.streaming import Blocks
from pipelines.embed.flow import Compute
from pipelines.embed.job import Job
from pipelines.gates.reference import encode_alone
from pipelines.ingest.fragments import write_bundle
from pipelines.records import ID, INPUT_IDS, PIXELS, VECTOR, Slot, embeddable
from pipelines.sources.units import Unit
from pipelines.stages.decode import decode, preprocessor
from pipelines.stages.pool import Stages
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.select import Snapshot
from vista_core import EncoderSettings
from vista_core.hub import resolve_config

SETTINGS = EncoderSettings(model="vista-tiny", device="cpu")


def vector_of_tokens(tokens: Sequence[int], dimension: int) -> np.ndarray:
    """float32 [D]: a unit vector that depends on the token ids, and on nothing else."""
    digest = hashlib.blake2b(np.asarray(tokens, np.int32).tobytes(), digest_size=8).digest()
    vector = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


@functools.cache
def vector_of_text(text: str, dimension: int) -> np.ndarray:
    """The vector that a record with this text, and no image, has to have."""
    [tokens] = preprocessor(SETTINGS).tokenize([text], [False])
    return vector_of_tokens(tokens.input_ids, dimension)


class InThisProcess:
    """Computes for one run. Workers die as told: what they did is done a second time."""

    def __init__(self, lost_writes: Sequence[int], units_per_block: int) -> None:
        self.lost_writes = lost_writes  # which calls of `write_bundle` are made twice: 1 is the first
        self.units_per_block = units_per_block
        self.writes = 0
        self.encoded: list[tuple[str, str]] = []  # id and text of each record that was encoded

    @property
    def compute(self) -> Compute:
        """The same for a run."""
        return Compute(lambda device: Cluster(cpus=4, gpus=0, nodes=1), self.flow, self.call, self.each)

    def flow(
        self, job: Job, units: Sequence[Unit], snapshot: Snapshot, stages: Stages, patience: float
    ) -> Generator[Blocks]:
        """Read, select, decode and encode the units one after the other."""
        source, waiting = job.source.without_listing(), list[pa.Table]()
        for number, unit in enumerate(units, 1):
            task = Task(unit, job.mark, job.files_of(unit)).row()
            for records in read_and_select({"task": [task["task"]]}, source, job.rules, snapshot, stages.reading):
                if len(records):
                    waiting.append(self.encode(decode(records, job.kept[0].settings, False), job))
            if waiting and (number % self.units_per_block == 0 or number == len(units)):
                yield Blocks(waiting, sum(map(len, waiting)), sum(each.nbytes for each in waiting))
                waiting = []

    def encode(self, records: pa.Table, job: Job) -> pa.Table:
        """What the encode actors do."""
        dimension, live = job.column.identity.dimension, embeddable(records)
        vectors = np.zeros((len(records), dimension), np.float16)
        for row in np.flatnonzero(live).tolist():
            vectors[row] = vector_of_tokens(records[INPUT_IDS][row].as_py(), dimension)
            self.encoded.append((records[ID][row].as_py(), records["text"][row].as_py()))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
        return records.drop_columns([INPUT_IDS, PIXELS]).append_column(VECTOR, column)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function; twice if the worker dies before its answer arrives."""
        if function is write_bundle:
            self.writes += 1
            if self.writes in self.lost_writes:
                function(*arguments)
        return function(*arguments)

    def each(self, function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """Call a function often."""
        for number, arguments in enumerate(calls):
            yield number, (encoded_alone if function is encode_alone else function)(*arguments)


def encoded_alone(tables: list[pa.Table], settings: EncoderSettings, slot: Slot) -> dict[str, np.ndarray]:
    """What the reference path gives for records: the canary compares the table's vectors with these."""
    dimension = resolve_config(settings).dimension
    rows = [row for table in tables for row in table.select([ID, slot.named(INPUT_IDS)]).to_pylist()]
    return {row[ID]: vector_of_tokens(row[slot.named(INPUT_IDS)], dimension) for row in rows}
