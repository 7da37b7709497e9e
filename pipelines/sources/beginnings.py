"""How the values of a column begin, which tells at little cost that none of them needs a closer look."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa

Column: TypeAlias = pa.Array | pa.ChunkedArray

COUNT = 8  # bytes, which are a number of 64 bits


def beginnings(column: Column) -> np.ndarray:
    """The first 8 bytes of each string or bytes as a number, of which the lowest byte is the first: uint64 [rows].

    Bytes beyond the end are 0. The number of a null says nothing.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([np.zeros(0, np.uint64), *(of_array(chunk) for chunk in chunks if len(chunk))])


def one_array(column: Column) -> pa.Array:
    """A column as one array, which is copied only if it has several chunks."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def of_array(array: pa.Array) -> np.ndarray:
    """The same of an array that has values."""
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offsets, data = array.buffers()
    if not data:
        return np.zeros(len(array), np.uint64)
    content = data if len(data) >= COUNT else data.to_pybytes().ljust(COUNT, b"\0")
    ends = np.frombuffer(offsets, np.int64 if is_large else np.int32)[array.offset : array.offset + len(array) + 1]
    starts, missing = ends[:-1], COUNT - np.diff(ends)
    windows = np.ndarray(len(content) - COUNT + 1, "<u8", content, strides=(1,))  # the 8 bytes from each byte on
    at = np.minimum(starts, len(windows) - 1)
    numbers = windows[at]
    if starts[-1] > at[-1]:
        numbers >>= (8 * np.minimum(starts - at, COUNT - 1)).astype(np.uint64)
    if missing.max() > 0:
        high = (8 * np.clip(missing, 0, COUNT - 1)).astype(np.uint64)
        numbers = np.where(missing < COUNT, numbers << high >> high, np.uint64(0))
    return numbers
