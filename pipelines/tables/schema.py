"""The columns of a table that vista makes."""

from __future__ import annotations

import pyarrow as pa

from pipelines.records import ID, IMAGE, IMAGE_URI, MODALITY, OBJECT, RUN, TEXT, TRUNCATED
from pipelines.tables.origin import Origin, marked
from pipelines.tables.vector_column import VectorColumn


def table_schema(
    extra: pa.Schema, column: VectorColumn, origin: Origin, *, image_uri: bool = False, store_images: bool = False
) -> pa.Schema:
    """The schema of a table, as users and searchers see it. `extra` are the columns that pass through.

    `_object` and `_run` are plain strings: Lance dictionary-encodes repeated strings on disk by itself, and its scalar
    indexes refuse Arrow dictionaries.
    """
    fields = [
        pa.field(ID, pa.string()),
        column.field,
        pa.field(TEXT, pa.string()),
        *([pa.field(IMAGE_URI, pa.string())] if image_uri else []),
        *([pa.field(IMAGE, pa.large_binary())] if store_images else []),
        *extra,
        pa.field(MODALITY, pa.string()),
        pa.field(TRUNCATED, pa.bool_()),
        column.fingerprint_field,
        pa.field(OBJECT, pa.string()),
        pa.field(RUN, pa.string()),
    ]
    return marked(pa.schema(fields), origin)
