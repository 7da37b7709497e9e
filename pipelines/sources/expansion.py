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
from pipelines.sources.types import is_bytes, is_list, is_text, plain

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
    bad = np.isin(np.arange(len(sizes)), list(rejects))
    runs = iter([*(np.flatnonzero(np.diff(bad)) + 1).tolist(), len(sizes)])  # where rows that are read end, or begin
    ends = np.cumsum(np.where(bad, 0, sizes))
    start, run_end = 0, 0
    while start < len(sizes):
        run_end = next(runs) if start == run_end else run_end
        before = ends[start - 1] if start else 0
        stop = max(start + 1, min(run_end, int(np.searchsorted(ends, before + limits.batch_bytes, "right"))))
        stop = run_end if bad[start] else stop
        table = nulls(batch.table.schema, stop - start) if bad[start] else batch.table.slice(start, stop - start)
        mine = {row - start: why for row, why in {**rejects, **batch.rejects}.items() if start <= row < stop}
        misfits = {row - start: why for row, why in batch.misfits.items() if start <= row < stop}
        yield Batch(table, batch.rows[start:stop], mine, misfits)
        start = stop


def nulls(schema: pa.Schema, rows: int) -> pa.Table:
    """Rows without values, in plain types."""
    return pa.table([pa.nulls(rows, plain(kind)) for kind in schema.types], schema.names)


def is_compact(kind: pa.DataType) -> bool:
    """True if several rows may share a stored value, at any depth."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) or is_view(kind) or is_list_view(kind):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return is_compact(kind.storage_type)
    return any(is_compact(kind.field(part).type) for part in range(kind.num_fields))


def is_view(kind: pa.DataType) -> bool:
    """True for strings and bytes that are views."""
    return kind in (pa.string_view(), pa.binary_view())


def is_list_view(kind: pa.DataType) -> bool:
    """True for lists that are views: they may share elements."""
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


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
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return shared_bytes(array)
    if is_view(kind):
        views = np.frombuffer(array.buffers()[1] or b"", np.int32).reshape(-1, VIEW_BYTES // 4)
        lengths = views[array.offset : array.offset + len(array), 0].astype(np.int64)
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    if is_text(kind) or is_bytes(kind):
        return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_struct(kind):
        return sum((array_bytes(part) for part in array.flatten()), np.zeros(len(array), np.int64))
    if pa.types.is_map(kind):
        return list_bytes(array.view(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    if is_list(kind):
        return list_bytes(array)
    return np.full(len(array), max(8, kind.byte_width) if pa.types.is_fixed_size_binary(kind) else 8)


def shared_bytes(array: pa.DictionaryArray | pa.RunEndEncodedArray) -> np.ndarray:
    """The bytes of values that are stored once for many rows."""
    if pa.types.is_dictionary(array.type):
        values = np.append(array_bytes(array.dictionary), 0)
        at = pc.fill_null(array.indices.cast(pa.int64()), len(values) - 1)
        return values[at.to_numpy(zero_copy_only=False)]
    rows = np.arange(array.offset, array.offset + len(array))
    return array_bytes(array.values)[np.searchsorted(np.asarray(array.run_ends), rows, "right")]


def list_bytes(array: pa.Array) -> np.ndarray:
    """The bytes of lists. To flatten views would copy the elements that they share."""
    lengths = lengths_of(array)
    if is_list_view(array.type):
        starts = np.where(lengths > 0, np.asarray(array.offsets, np.int64), 0)
        totals = np.append(0, np.cumsum(array_bytes(array.values)))
        return totals[starts + lengths] - totals[starts]
    ends, totals = np.cumsum(lengths), np.append(0, np.cumsum(array_bytes(array.flatten())))
    return totals[ends] - totals[ends - lengths]
