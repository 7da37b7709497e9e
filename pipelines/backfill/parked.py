"""Vectors that are encoded and wait until their fragment is complete: kept in `NAME_backfill`, by content.

So whatever is killed, nothing is encoded twice; and if another client moved a row meanwhile, by a compaction or an
update of another column, its vector is found by what it was made of, wherever the row is now.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from lance.fragment import write_fragments

from pipelines.backfill.arrived import ENCODED
from pipelines.records import FINGERPRINT, FINGERPRINT_TYPE, VECTOR, slot_name
from pipelines.tables.dataset import SCAN, ensure_dataset, open_dataset
from pipelines.tables.transactions import append, to_json
from pipelines.tables.vector_column import VectorColumn

COLUMN: Final = "column"  # which column, and which encoder
PARKED_SCHEMA: Final = pa.schema([(COLUMN, pa.string()), ("fingerprint", FINGERPRINT_TYPE), ("vector", pa.binary())])
TAKEN: Final = 8_192  # vectors that are read at once


@dataclass(frozen=True)
class Parked:
    """A version of the vectors that wait, for some columns. Cheap to send to a worker."""

    uri: str
    version: int | None  # None: there are none
    columns: tuple[VectorColumn, ...]

    @classmethod
    def open(cls, uri: str, columns: Sequence[VectorColumn]) -> Parked:
        """The latest version."""
        dataset = open_dataset(uri)
        return cls(uri, None if dataset is None else dataset.version, tuple(columns))

    def has(self, number: int, fingerprints: pa.Array, wanted: np.ndarray) -> np.ndarray:
        """bool [N]: of which of the `wanted` fingerprints there is a vector of the column of this number."""
        if self.version is None or not wanted.any():
            return np.zeros(len(fingerprints), bool)
        known = known_fingerprints(self.uri, self.version, key_of(self.columns[number]))
        return np.asarray(pc.is_in(fingerprints, value_set=known.fingerprints)) & wanted

    def vectors(self, number: int, fingerprints: pa.Array) -> np.ndarray:
        """The vectors of some contents, float16 [N, D]. Raises KeyError if one is not there."""
        column = self.columns[number]
        if self.version is None:
            raise KeyError(f"no vectors wait in {self.uri}")
        known = known_fingerprints(self.uri, self.version, key_of(column))
        places = pc.index_in(fingerprints, value_set=known.fingerprints)
        if places.null_count:
            raise KeyError(f"{places.null_count} vectors are not in {self.uri}")
        rows = known.rows[places.to_numpy(zero_copy_only=False)]
        order = np.argsort(rows)
        found = np.empty((len(rows), column.identity.dimension), np.float16)
        dataset = lance.dataset(self.uri, version=self.version)
        for start in range(0, len(rows), TAKEN):
            at = order[start : start + TAKEN]
            values = dataset.take(rows[at].tolist(), columns=["vector"])["vector"].to_pylist()
            found[at] = np.frombuffer(b"".join(values), np.float16).reshape(len(at), -1)
        return found

    def added(self, fragments: Sequence[str]) -> Parked:
        """The same with vectors that `write_parked` has written."""
        if not fragments:
            return self
        dataset = append(ensure_dataset(self.uri, PARKED_SCHEMA), fragments)
        return Parked(self.uri, dataset.version, self.columns)

    def remove(self) -> None:
        """Remove all of it: nothing waits any longer."""
        lance.LanceDataset.drop(self.uri, ignore_not_found=True)


@dataclass(frozen=True)
class Known:
    """The contents of which there are vectors, and where these are."""

    fingerprints: pa.Array
    rows: np.ndarray  # their positions in the dataset


@functools.lru_cache(maxsize=8)
def known_fingerprints(uri: str, version: int, key: str) -> Known:
    """What waits for a column. It has the vectors of at most a few fragments: 24 bytes each are in memory."""
    dataset, parts, rows, start = lance.dataset(uri, version=version), [], [], 0
    for batch in dataset.scanner(columns=[COLUMN, "fingerprint"], **SCAN).to_batches():
        chosen = pc.equal(batch.column(COLUMN), key)
        parts.append(batch.column("fingerprint").filter(chosen))
        rows.append(start + np.flatnonzero(np.asarray(chosen)))
        start += len(batch)
    fingerprints = pa.concat_arrays([pa.array([], FINGERPRINT_TYPE), *parts])
    return Known(fingerprints, np.concatenate([np.empty(0, np.int64), *rows]))


def key_of(column: VectorColumn) -> str:
    """Stands for a column and its encoder."""
    return f"{column.name} {xxhash.xxh3_128_hexdigest(column.identity.to_json().encode())}"


def write_parked(uri: str, columns: Sequence[VectorColumn], fragments: Sequence[int], *encoded: pa.Table) -> list[str]:
    """Write the vectors of some fragments of the table, uncommitted; `encoded` are as `arrived.split` gives them."""
    parts = []
    for table in encoded:
        mine = table.filter(pc.is_in(pc.shift_right(table["_row"], 32), value_set=pa.array(fragments, pa.int64())))
        for number, column in enumerate(columns):
            rows = mine.filter(mine[slot_name(ENCODED, number)])
            if not len(rows):
                continue
            vectors = rows[slot_name(VECTOR, number)].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            width = column.identity.dimension * vectors.itemsize
            values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(vectors)])
            columns_of = [pa.repeat(key_of(column), len(rows)), rows[FINGERPRINT], values.cast(pa.binary())]
            parts.append(pa.table(columns_of, schema=PARKED_SCHEMA))
    if not parts:
        return []
    return to_json(write_fragments(pa.concat_tables(parts), uri, schema=PARKED_SCHEMA, mode="append"))
