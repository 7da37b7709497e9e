"""Images in the cells of a column: bytes, paths or URIs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import Reject
from pipelines.sources.types import is_text


def image_parts(
    column: pa.ChunkedArray | pa.Array,
) -> tuple[pa.ChunkedArray | pa.Array, pa.ChunkedArray | pa.Array, dict[int, Reject]]:
    """A column's image bytes, the paths or URIs of images, and by row why an image can't be read."""
    nulls = pa.nulls(len(column))
    if is_text(column.type):
        return nulls, pc.if_else(pc.equal(column, ""), None, column), {}
    if not pa.types.is_struct(column.type):
        return column, nulls, {}
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    parts = dict(zip((field.name for field in column.type), array.flatten(), strict=True))
    return parts.get("bytes", nulls), parts.get("path", nulls), {}
