"""The contract between the stages: one Arrow schema that a record fills as it moves from left to right.

    read      id, text, image, image_uri, _object, _row, MISFITS, and the source's other columns
    select    FINGERPRINT; unchanged records are dropped and counted; records of which only other columns or the file
              changed are marked HAS_VECTOR, and pass decode and encode untouched
    fetch     image, where image_uri alone says where it is
    decode    modality, truncated, INPUT_IDS, PIXELS (the image bytes are dropped, unless they are stored)
    encode    VECTOR (INPUT_IDS and PIXELS are dropped)

A record that a stage rejects keeps its row: REASON, STAGE and MESSAGE are set, later stages pass it on untouched, and
the write step puts it into `NAME_rejects`. Counts travel as rows, too (`batch_stats`): Ray retries tasks but yields
each block once, so what is counted in the stream is counted once. For the same reason the seconds that a stage took for
a batch, and what an encoder did for it, travel in its first row (MEASURED), and small pictures of a few records for the
report of the run (PICTURE).

A record that is encoded for several vector columns at once has HAS_VECTOR, INPUT_IDS, PIXELS and VECTOR for each of
them, under the names of its `Slot`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import Reject

# Columns of a record that a table has, too, under the same names.
ID, TEXT, IMAGE, IMAGE_URI, OBJECT, RUN = "id", "text", "image", "image_uri", "_object", "_run"
MODALITY, TRUNCATED = "modality", "truncated"
# Columns of a record on its way. The table has fingerprint and vector under the names of its vector column.
ROW, MISFITS, REASON, STAGE, MESSAGE, STATS = "_row", "_misfits", "_reason", "_stage", "_message", "_stats"
FINGERPRINT, VECTOR, HAS_VECTOR = "_content_fingerprint", "_encoded_vector", "_has_vector"
MEASURED, PICTURE = "_measured", "_picture"
INPUT_IDS, PIXELS = "_input_ids", "_pixels"

FINGERPRINT_TYPE = pa.binary(16)
STATS_TYPE = pa.struct(  # batch_stats.BatchStats
    [
        (
            "files",
            pa.list_(
                pa.struct(
                    [
                        ("file", pa.string()),
                        ("read", pa.int64()),
                        ("deferred", pa.int64()),
                        ("unchanged", pa.int64()),
                        ("checksum", pa.uint64()),
                    ]
                )
            ),
        ),
        ("unchanged_addresses", pa.list_(pa.uint64())),
        ("unchanged_rows", pa.list_(pa.int64())),
        ("unchanged_files", pa.list_(pa.int32())),
        ("ended", pa.list_(pa.string())),
        ("misfits", pa.list_(pa.struct([("column", pa.string()), ("number", pa.int64()), ("example", pa.string())]))),
        ("warnings", pa.list_(pa.string())),
    ]
)

# Amounts of a quantity by name, such as of `batch_stats.SECONDS` by stage.
MEASURED_TYPE = pa.list_(pa.struct([("quantity", pa.string()), ("name", pa.string()), ("amount", pa.float64())]))

# Columns that a source reads, before its own.
READ_FIELDS = (
    pa.field(ID, pa.string()),
    pa.field(TEXT, pa.string()),
    pa.field(IMAGE, pa.large_binary()),
    pa.field(IMAGE_URI, pa.string()),
    pa.field(OBJECT, pa.string()),
    pa.field(ROW, pa.int64()),
    # Values of columns that pass through which don't fit, and are null in the record.
    pa.field(MISFITS, pa.list_(pa.struct([("column", pa.string()), ("message", pa.string())]))),
)
# Columns that every record carries beside them, from `select` on.
FLOW_FIELDS = (
    pa.field(FINGERPRINT, FINGERPRINT_TYPE),
    pa.field(REASON, pa.string()),
    pa.field(STAGE, pa.string()),
    pa.field(MESSAGE, pa.string()),
    pa.field(STATS, STATS_TYPE),
    pa.field(HAS_VECTOR, pa.bool_()),  # the content is unchanged, so the table's vector is copied
    pa.field(MEASURED, MEASURED_TYPE),  # of the batches in which this row was the first
    pa.field(PICTURE, pa.binary()),  # a small JPEG, of a few records
)
# What `decode` adds, and `encode` consumes.
DECODED_FIELDS = (
    pa.field(MODALITY, pa.string()),
    pa.field(TRUNCATED, pa.bool_()),
    pa.field(INPUT_IDS, pa.list_(pa.int32())),
    pa.field(PIXELS, pa.large_binary()),  # uint8 [S, S, 3]: a quarter of float32 on its way to the device
)


@dataclass(frozen=True)
class Slot:
    """The columns of a record on its way that belong to one of the vector columns it is encoded for."""

    number: int = 0
    pixels_of: int = 0  # the number of the slot whose pixels its encoder takes, since they would be the same
    keeps_pixels: bool = False  # True if the encoder of a later slot takes them, too

    def named(self, column: str) -> str:
        """The slot's name for a column."""
        return slot_name(column, self.number)

    @property
    def pixels(self) -> str:
        """The column with the pixels."""
        return slot_name(PIXELS, self.pixels_of)

    @property
    def own_fields(self) -> tuple[pa.Field, ...]:
        """The fields that `decode` adds for this slot."""
        names = [INPUT_IDS, *([PIXELS] if self.pixels_of == self.number else [])]
        return tuple(field.with_name(self.named(field.name)) for field in DECODED_FIELDS if field.name in names)


def slot_name(column: str, number: int) -> str:
    """The name of a column that each slot has: those of the first slot are those of the constants."""
    return f"{column}_{number}" if number else column


def with_slots(records: pa.Table, slots: int) -> pa.Table:
    """`records` with HAS_VECTOR for as many slots; null where they have none yet."""
    for number in range(1, slots):
        if slot_name(HAS_VECTOR, number) not in records.column_names:
            records = records.append_column(slot_name(HAS_VECTOR, number), pa.nulls(len(records), pa.bool_()))
    return records


# Names that columns of a source can't have: the flow's, the table's, and those that Lance adds to what is read.
LANCE_NAMES = {"_rowid", "_rowaddr", "_rowoffset", "_distance"}
LANCE_NAMES |= {"_row_created_at_version", "_row_last_updated_at_version"}
RESERVED = {field.name for field in (*READ_FIELDS, *FLOW_FIELDS, *DECODED_FIELDS)} | LANCE_NAMES
RESERVED |= {RUN, VECTOR, "vector", "vector_fingerprint"}

REJECT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("object", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("run", pa.string()),
    ]
)


class Misfits(NamedTuple):
    """Values of a column that passes through which don't fit it, and are null in the table."""

    column: str
    number: int
    example: str


class Pictured(NamedTuple):
    """A small picture of a record's image."""

    id: str | None
    file: str | None
    row: int | None  # of the file
    reason: str | None  # for which the record was rejected; None if it got into the table
    picture: bytes  # WebP


def read_schema(extra: pa.Schema) -> pa.Schema:
    """What a source yields: the fixed columns, then its own (`extra`)."""
    return pa.schema([*READ_FIELDS, *extra])


def with_rejects(table: pa.Table, rejects: dict[int, Reject]) -> pa.Table:
    """`table` with `rejects` (by row number) marked; a row that was rejected before keeps its first reason."""
    if not rejects:
        return table
    for name, attribute in ((REASON, "reason"), (STAGE, "stage"), (MESSAGE, "message")):
        values = table[name].to_pylist()
        for row, reject in rejects.items():
            values[row] = values[row] or getattr(reject, attribute)
        table = replace_column(table, name, pa.array(values, pa.string()))
    return table


def replace_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """`table` with the column `name` replaced, or appended if it is missing."""
    position = table.schema.get_field_index(name)
    if position < 0:
        return table.append_column(name, values)
    return table.set_column(position, name, values)


def embeddable(table: pa.Table, slot: int | None = None) -> list[bool]:
    """Per row: True if it is a record that no stage has rejected and that needs a vector: that of a slot, or any."""
    numbers = (
        range(len([name for name in table.column_names if name.startswith(HAS_VECTOR)])) if slot is None else [slot]
    )
    has_vector = [pc.fill_null(table[slot_name(HAS_VECTOR, number)], False) for number in numbers]
    others = (pc.is_valid(table[REASON]), pc.is_valid(table[STATS]), functools.reduce(pc.and_, has_vector))
    return pc.invert(functools.reduce(pc.or_, others)).to_pylist()
