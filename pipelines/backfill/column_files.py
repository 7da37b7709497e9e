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
from pipelines.ingest.fragments import write
from pipelines.reasons import EMPTY_RECORD, REASONS
from pipelines.records import FINGERPRINT, ID, MESSAGE, REASON, REJECT_SCHEMA, ROW, STAGE, VECTOR, slot_name
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
    reasons: list[str | None]

    @classmethod
    def of(cls, decided: pa.Table) -> Decisions:
        """Of the rows that `arrived.split` gives."""
        positions = decided[ROW].to_numpy() & IN_FRAGMENT
        order = np.argsort(positions)
        decided = decided.take(pa.array(order))
        return cls(positions[order], decided[FINGERPRINT].combine_chunks(), decided[REASON].to_pylist())

    def between(self, start: int, end: int) -> slice:
        """Which of them are of the rows from `start` up to `end`."""
        return slice(*np.searchsorted(self.positions, (start, end)).tolist())


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
    chosen = decisions.between(start, start + len(rows))
    arrays: list[pa.Array] = []
    for number, column in enumerate(part.columns):
        stored = Stored.of(rows, column)
        decide(stored, column, start, Chosen(decisions, chosen, encoded[number], part.parked, number))
        arrays += stored.arrays(schema, column)
    return pa.record_batch(arrays, schema=schema)


@dataclass
class Stored:
    """The vectors and fingerprints of some neighbouring rows, which are changed in place."""

    vectors: np.ndarray
    has_vector: np.ndarray
    fingerprints: np.ndarray  # of bytes objects, or None

    @classmethod
    def of(cls, rows: pa.Table, column: VectorColumn) -> Stored:
        """As the table has them."""
        vectors = rows[column.name].combine_chunks()
        valid = np.array(vectors.is_valid())
        values = np.zeros((len(rows), column.identity.dimension), vectors.type.value_type.to_pandas_dtype())
        values[valid] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.shape[1])
        fingerprints = np.array([*rows[column.fingerprint].to_pylist(), None], object)[:-1]
        return cls(values, valid, fingerprints)

    def arrays(self, schema: pa.Schema, column: VectorColumn) -> list[pa.Array]:
        """The columns of the file."""
        mask = pa.array(~self.has_vector)
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(self.vectors.reshape(-1)), self.vectors.shape[1], mask=mask
        )
        fingerprints = pa.array(self.fingerprints.tolist(), schema.field(column.fingerprint).type)
        return [vectors.cast(schema.field(column.name).type), fingerprints]


@dataclass(frozen=True)
class Chosen:
    """The decisions on some neighbouring rows, for the column of this number, and where their vectors are."""

    decisions: Decisions
    which: slice
    encoded: Encoded | None
    parked: Parked
    number: int


def decide(stored: Stored, column: VectorColumn, start: int, chosen: Chosen) -> None:
    """Change rows as was decided: a vector, none, or what is there.

    Where nothing is known of the content, since a store or server failed, the row stays.
    """
    positions = chosen.decisions.positions[chosen.which]
    reasons = chosen.decisions.reasons[chosen.which]
    fingerprints = chosen.decisions.fingerprints[chosen.which.start : chosen.which.stop]
    at, digests = positions - start, np.array([*fingerprints.to_pylist(), None], object)[:-1]
    good = np.array([reason is None for reason in reasons], bool)
    for row, digest, reason in zip(at[~good], digests[~good], filter(None, reasons), strict=True):
        if REASONS[reason].removes_row:
            stored.has_vector[row] = False
            stored.fingerprints[row] = digest if reason == EMPTY_RECORD.name else None
    new = np.zeros(len(at), bool)
    if chosen.encoded is not None:
        new, vectors = chosen.encoded.find(positions)
        stored.vectors[at[new]] = vectors  # a rejected row has none
    waiting = good & ~new & ~np.array(stored.fingerprints[at] == digests, bool)
    if waiting.any():
        try:
            stored.vectors[at[waiting]] = chosen.parked.vectors(chosen.number, fingerprints.filter(pa.array(waiting)))
        except KeyError as error:
            raise VistaError(f"`{column.name}`: {error.args[0]}. Run the same command again") from error
    written = good & (new | waiting)
    stored.has_vector[at[written]] = True
    stored.fingerprints[at[written]] = digests[written]


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
