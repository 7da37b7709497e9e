"""On a worker: a data file with the vectors of a fragment's rows, beside the files that the fragment has.

It has a row for each row of the fragment, deleted ones included, so its rows are found by their position. Nobody reads
it before it is committed. Written batch by batch: memory does not grow with the fragment's columns.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from pipelines.backfill.arrived import ENCODED
from pipelines.backfill.parked import Parked
from pipelines.fingerprint import digests
from pipelines.ingest.fragments import write
from pipelines.reasons import EMPTY_RECORD, REASONS
from pipelines.records import (
    FINGERPRINT,
    FINGERPRINT_TYPE,
    ID,
    MESSAGE,
    REASON,
    REJECT_SCHEMA,
    ROW,
    STAGE,
    VECTOR,
    slot_name,
)
from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import ADDRESS, TableVersion
from pipelines.tables.vector_column import VectorColumn
from vista_core import VistaError

BATCH_ROWS: Final = 8_192
IN_FRAGMENT: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Part:
    """A fragment of a version of a table, and the columns of it that are filled."""

    table: TableVersion
    fragment: int
    columns: tuple[VectorColumn, ...]
    parked: Parked
    rejects_uri: str
    run: str


@dataclass(frozen=True)
class Filled:
    """The outcome of a fragment: what the driver needs to commit it."""

    fragment: int
    file: DataFile
    reasons: Counter[str] = field(default_factory=Counter)  # of its rows that have no vector
    rejects: Sequence[str] = ()  # new fragments of NAME_rejects


@dataclass(frozen=True)
class Decisions:
    """What became of some rows of a fragment, in the order of their positions there."""

    positions: np.ndarray
    fingerprints: pa.Array
    reasons: np.ndarray  # why a row has no vector, or None

    @classmethod
    def of(cls, decided: pa.Table) -> Decisions:
        """Of the rows that `arrived.split` gives."""
        positions = decided[ROW].to_numpy() & IN_FRAGMENT
        order = np.argsort(positions)
        decided = decided.take(pa.array(order))
        return cls(positions[order], decided[FINGERPRINT].combine_chunks(), decided[REASON].to_numpy())

    def between(self, start: int, end: int) -> Decisions:
        """Those of the rows from `start` up to `end`."""
        first, last = np.searchsorted(self.positions, (start, end)).tolist()
        return Decisions(
            self.positions[first:last], self.fingerprints.slice(first, last - first), self.reasons[first:last]
        )


class Encoded:
    """The vectors of some rows of a fragment, by their position there."""

    def __init__(self, encoded: pa.Table, number: int, column: VectorColumn) -> None:
        rows = encoded.filter(encoded[slot_name(ENCODED, number)])
        values = rows[slot_name(VECTOR, number)].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        positions = rows[ROW].to_numpy() & IN_FRAGMENT
        self.order = np.argsort(positions)
        self.positions = positions[self.order]
        self.vectors = values.reshape(len(rows), column.identity.dimension)

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some positions have a vector here, and these vectors."""
        at = np.searchsorted(self.positions, positions)
        at[at == len(self.positions)] = 0
        found = self.positions[at] == positions if len(self.positions) else np.zeros(len(positions), bool)
        return found, self.vectors[self.order[at[found]]]


def fill_fragment(part: Part, decided_blocks: int, *blocks: pa.Table) -> Filled:
    """Write the file of a fragment. The first `blocks` are the decided rows, the others the vectors."""
    number = pa.scalar(part.fragment, pa.int64())
    mine = [each.filter(pc.equal(pc.shift_right(each[ROW], 32), number)) for each in blocks]
    decided = pa.concat_tables(mine[:decided_blocks])
    decisions = Decisions.of(decided)
    encoded = [
        Encoded(pa.concat_tables(mine[decided_blocks:]), number, column) if len(mine) > decided_blocks else None
        for number, column in enumerate(part.columns)
    ]
    dataset = part.table.open()
    schema = pa.schema([field_of(dataset, name) for each in part.columns for name in (each.name, each.fingerprint)])
    name = f"{uuid.uuid4().hex}.lance"
    with LanceFileWriter(f"{dataset.uri}/data/{name}", schema, version=dataset.data_storage_version) as writer:
        for start, rows in stored_rows(dataset, part):
            writer.write_batch(filled(part, schema, start, rows, (decisions, encoded)))
    return Filled(
        part.fragment,
        DataFile.create(dataset, name),
        Counter(reason for reason in decisions.reasons if reason),
        write(reject_rows(decided, part), part.rejects_uri),
    )


def field_of(dataset: lance.LanceDataset, name: str) -> pa.Field:
    """A column's field as the table has it, without its metadata."""
    return dataset.schema.field(name).remove_metadata().with_nullable(True)


def stored_rows(dataset: lance.LanceDataset, part: Part) -> Iterator[tuple[int, pa.Table]]:
    """What the fragment has in the columns, by its positions from the first to the last: a start, and rows from there.

    Deleted rows are null.
    """
    fragment = dataset.get_fragment(part.fragment)
    assert fragment is not None, "it is of this version"
    names = [name for column in part.columns for name in (column.name, column.fingerprint)]
    scanner = fragment.scanner(columns=names, with_row_address=True, batch_size=BATCH_ROWS, batch_readahead=1)
    end = fragment.physical_rows
    done = 0
    for batch in scanner.to_batches():
        rows = pa.Table.from_batches([batch])
        positions = rows[ADDRESS].to_numpy().astype(np.int64) & IN_FRAGMENT
        for start in range(done, int(positions[-1]) + 1, BATCH_ROWS):
            stop = min(start + BATCH_ROWS, int(positions[-1]) + 1)
            yield start, placed(rows.select(names), positions, start, stop)
        done = int(positions[-1]) + 1
    empty = dataset.schema.empty_table().select(names)
    for start in range(done, end, BATCH_ROWS):
        yield start, placed(empty, np.empty(0, np.int64), start, min(start + BATCH_ROWS, end))


def placed(rows: pa.Table, positions: np.ndarray, start: int, stop: int) -> pa.Table:
    """A row for each position from `start` up to `stop`: that of `rows` which is at it, or nulls."""
    wanted = np.searchsorted(positions, np.arange(start, stop))
    wanted[wanted == len(positions)] = 0
    there = positions[wanted] == np.arange(start, stop) if len(positions) else np.zeros(stop - start, bool)
    return rows.take(pa.array(wanted, pa.int64(), mask=~there))


def filled(
    part: Part, schema: pa.Schema, start: int, rows: pa.Table, by: tuple[Decisions, list[Encoded | None]]
) -> pa.RecordBatch:
    """The stored `rows`, from position `start` on, with what was decided of them."""
    decisions, encoded = by
    here = decisions.between(start, start + len(rows))
    arrays: list[pa.Array] = []
    for number, column in enumerate(part.columns):
        stored = Stored.of(rows, column)
        decide(stored, start, here, Vectors(column, encoded[number], part.parked, number))
        arrays += stored.arrays(schema, column)
    return pa.record_batch(arrays, schema=schema)


@dataclass
class Stored:
    """The vectors and fingerprints of some neighbouring rows, which are changed in place."""

    vectors: np.ndarray
    has_vector: np.ndarray
    fingerprints: np.ndarray  # as `fingerprint.digests` has them
    has_fingerprint: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table, column: VectorColumn) -> Stored:
        """As the table has them."""
        vectors = rows[column.name].combine_chunks()
        valid = np.array(vectors.is_valid())
        values = np.zeros((len(rows), column.identity.dimension), vectors.type.value_type.to_pandas_dtype())
        values[valid] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.shape[1])
        fingerprints = rows[column.fingerprint].combine_chunks()
        return cls(values, valid, digests(fingerprints).copy(), np.array(fingerprints.is_valid()))

    def arrays(self, schema: pa.Schema, column: VectorColumn) -> list[pa.Array]:
        """The columns of the file."""
        mask = pa.array(~self.has_vector)
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(self.vectors.reshape(-1)), self.vectors.shape[1], mask=mask
        )
        buffers = [pa.array(self.has_fingerprint).buffers()[1], pa.py_buffer(self.fingerprints)]
        fingerprints = pa.Array.from_buffers(FINGERPRINT_TYPE, len(self.fingerprints), buffers)
        return [
            vectors.cast(schema.field(column.name).type),
            fingerprints.cast(schema.field(column.fingerprint).type),
        ]


@dataclass(frozen=True)
class Vectors:
    """Where the vectors of a column are: those of this round, and those that wait. `number` is that of the column."""

    column: VectorColumn
    encoded: Encoded | None
    parked: Parked
    number: int


def decide(stored: Stored, start: int, decisions: Decisions, new: Vectors) -> None:
    """Change rows as was decided: a vector, none, or what is there. `start` is the position of the first stored row.

    Where nothing is known of the content, since a store or server failed, the row stays.
    """
    at, decided = decisions.positions - start, digests(decisions.fingerprints)
    good = np.array([reason is None for reason in decisions.reasons], bool)
    for row, reason in zip(np.flatnonzero(~good), decisions.reasons[~good], strict=True):
        if REASONS[reason].removes_row:
            stored.has_vector[at[row]] = False
            stored.has_fingerprint[at[row]] = reason == EMPTY_RECORD.name
            stored.fingerprints[at[row]] = decided[row]
    is_encoded = np.zeros(len(at), bool)
    if new.encoded is not None:
        is_encoded, vectors = new.encoded.find(decisions.positions)
        stored.vectors[at[is_encoded]] = vectors  # a rejected row has none
    is_stored = stored.has_fingerprint[at] & (stored.fingerprints[at] == decided)
    waiting = good & ~is_encoded & ~is_stored
    if waiting.any():
        try:
            parked = new.parked.vectors(new.number, decisions.fingerprints.filter(pa.array(waiting)))
        except KeyError as error:
            raise VistaError(f"`{new.column.name}`: {error.args[0]}. Run the same command again") from error
        stored.vectors[at[waiting]] = parked
    written = good & (is_encoded | waiting)
    stored.has_vector[at[written]] = stored.has_fingerprint[at[written]] = True
    stored.fingerprints[at[written]] = decided[written]


def reject_rows(decided: pa.Table, part: Part) -> pa.Table:
    """The rejected rows, in the schema of `NAME_rejects`. A row without content is none of them."""
    reasons = decided[REASON]
    rejected = decided.filter(pc.fill_null(pc.not_equal(reasons, EMPTY_RECORD.name), False))
    values = {
        "id": rejected[ID],
        "object": pa.repeat(reject_object(part.table.uri, part.fragment), len(rejected)),
        "row": pc.bit_wise_and(rejected[ROW], pa.scalar(IN_FRAGMENT, pa.int64())),
        "stage": rejected[STAGE],
        "reason": rejected[REASON],
        "message": pa.array([text and redacted_text(text) for text in rejected[MESSAGE].to_pylist()], pa.string()),
        "run": pa.repeat(part.run, len(rejected)),
    }
    return pa.table([values[name] for name in REJECT_SCHEMA.names], schema=REJECT_SCHEMA)


def reject_object(uri: str, fragment: int) -> str:
    """What stands for a fragment in `NAME_rejects`, where sources have their files."""
    return f"{uri}#{fragment}"
