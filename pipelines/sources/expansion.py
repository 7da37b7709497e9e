"""Rows that grow when they become records: values of dictionaries and views, and what is repeated for each image.

A value is stored once in a dictionary, and rows refer to it. A file of 10 kB can so hold gigabytes. Rows are divided by
what they take as records before anything is copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import SEVERAL_IMAGES, TEXT_TOO_LARGE, Reject
from pipelines.sources.columns import Batch, Layout
from pipelines.sources.limits import Limits
from pipelines.sources.types import is_bytes, is_list, is_text

VIEW_BYTES = 16  # of a view, which begins with the length of its value as an int32


def bounded(batch: Batch, layout: Layout, limits: Limits) -> Iterator[Batch]:
    """A batch in parts of which each takes at most `batch_bytes` as records.

    Rows that take more than `row_bytes`, or have more than `record_images` images, are null and rejected.
    """
    expand = layout.several and layout.image in batch.table.column_names
    is_plain = not expand and not any(is_compact(column.type) for column in batch.table.columns)
    if is_plain and batch.table.nbytes <= limits.batch_bytes:
        yield batch
        return
    sizes = sum((column_bytes(column) for column in batch.table.columns), np.zeros(len(batch.table), np.int64))
    images = image_counts(batch.table[layout.image]) if expand else np.ones(len(sizes), np.int64)
    sizes *= np.maximum(1, np.minimum(images, limits.record_images) if layout.images == "each" else 1)
    rejects: dict[int, Reject] = {}
    for row in np.flatnonzero(sizes > limits.row_bytes).tolist():
        message = f"its values take {sizes[row]:,} bytes; at most {limits.row_bytes:,} are read"
        rejects[row] = TEXT_TOO_LARGE.reject(message)
    for row in np.flatnonzero(images > limits.record_images).tolist():
        rejects[row] = SEVERAL_IMAGES.reject(f"it has {images[row]:,} images; the limit is {limits.record_images:,}")
    table = batch.table
    if rejects:
        bad = np.isin(np.arange(len(sizes)), list(rejects))
        table, sizes = table.take(pa.array(np.arange(len(sizes)), mask=bad)), np.where(bad, 0, sizes)
    ends = np.cumsum(sizes)
    start = 0
    while start < len(table):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limits.batch_bytes, "right")))
        mine = {row - start: why for row, why in ({**rejects, **batch.rejects}).items() if start <= row < stop}
        unfit = {row - start: columns for row, columns in batch.misfits.items() if start <= row < stop}
        yield Batch(table.slice(start, stop - start), batch.rows[start:stop], mine, unfit)
        start = stop


def is_compact(kind: pa.DataType) -> bool:
    """True if several rows may share a stored value, at any depth."""
    if pa.types.is_dictionary(kind) or is_view(kind):
        return True
    return any(is_compact(kind.field(part).type) for part in range(kind.num_fields))


def is_view(kind: pa.DataType) -> bool:
    """True for strings and bytes that are views."""
    return kind in (pa.string_view(), pa.binary_view())


def image_counts(column: pa.ChunkedArray) -> np.ndarray:
    """How many images each row has."""
    return lengths_of(column) if is_list(column.type) else np.ones(len(column), np.int64)


def lengths_of(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """How many elements each list has."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths, np.int64)


def column_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """The bytes that each row of a column takes, without dictionaries and views."""
    return np.concatenate([np.zeros(0, np.int64), *map(array_bytes, column.chunks)])


def array_bytes(array: pa.Array) -> np.ndarray:
    """The bytes that each value takes, without dictionaries and views; about that for values of other types."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return array_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        values = np.append(array_bytes(array.dictionary), 0)
        at = pc.fill_null(array.indices.cast(pa.int64()), len(values) - 1)
        return values[at.to_numpy(zero_copy_only=False)]
    if is_view(kind):
        views = np.frombuffer(array.buffers()[1] or b"", np.int32).reshape(-1, VIEW_BYTES // 4)
        lengths = views[array.offset : array.offset + len(array), 0].astype(np.int64)
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    if is_text(kind) or is_bytes(kind):
        return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_struct(kind):
        return sum((array_bytes(part) for part in array.flatten()), np.zeros(len(array), np.int64))
    if is_list(kind):
        lengths = lengths_of(array)
        ends, totals = np.cumsum(lengths), np.append(0, np.cumsum(array_bytes(array.flatten())))
        return totals[ends] - totals[ends - lengths]
    return np.full(len(array), 8)
