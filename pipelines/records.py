"""The contract between the stages: one Arrow schema that a record fills as it moves from left to right.

    read      id, text, image, image_uri, _object, _row, the source's other columns
    select    vector_fingerprint; rows that the table already holds are dropped and counted in a tally, those of which
              only other columns or the object changed are marked: no later stage but the sink has to do with them
    fetch     image, where image_uri alone says where it is
    decode    modality, truncated, input_ids, pixels (and the image bytes go, unless they are stored)
    encode    vector (and input_ids and pixels go)

A record that fails anywhere keeps its row: `reason`, `stage` and `message` are set, and every later stage passes
it on untouched until the sink puts it among the rejects. A tally is a row without a record: it carries the counts
of what was read through the same channel, so that Ray hands over each count exactly as often as its rows: once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

ID, TEXT, IMAGE, IMAGE_URI, OBJECT, ROW = "id", "text", "image", "image_uri", "_object", "_row"
VECTOR, FINGERPRINT, RUN = "vector", "vector_fingerprint", "_run"
MODALITY, TRUNCATED = "modality", "truncated"
REASON, STAGE, MESSAGE, TALLY = "_reason", "_stage", "_message", "_tally"
HAS_VECTOR = "_has_vector"
INPUT_IDS, PIXELS = "_input_ids", "_pixels"

FINGERPRINT_TYPE = pa.binary(16)
TALLY_TYPE = pa.struct(
    [
        # Of each object in the batch: records read, those of them that are claims (see `select`), those that the table
        # holds unchanged, and the sum of the latters' digests.
        (
            "objects",
            pa.list_(
                pa.struct(
                    [
                        ("object", pa.string()),
                        ("read", pa.int64()),
                        ("claims", pa.int64()),
                        ("unchanged", pa.int64()),
                        ("digest", pa.uint64()),
                    ]
                )
            ),
        ),
        ("unchanged_addresses", pa.list_(pa.uint64())),  # where the table holds those that did not change
        ("unchanged_rows", pa.list_(pa.int64())),  # which rows of their object they are
        ("unchanged_objects", pa.list_(pa.int32())),  # and of which of the objects
        ("ended", pa.list_(pa.string())),  # objects of a unit that was read to its end
    ]
)

# Columns that a source reads, before its own.
READ_FIELDS = (
    pa.field(ID, pa.string()),
    pa.field(TEXT, pa.string()),
    pa.field(IMAGE, pa.large_binary()),
    pa.field(IMAGE_URI, pa.string()),
    pa.field(OBJECT, pa.string()),
    pa.field(ROW, pa.int64()),
)
# Columns that every record carries beside them, from `select` on.
FLOW_FIELDS = (
    pa.field(FINGERPRINT, FINGERPRINT_TYPE),
    pa.field(REASON, pa.string()),
    pa.field(STAGE, pa.string()),
    pa.field(MESSAGE, pa.string()),
    pa.field(TALLY, TALLY_TYPE),
    pa.field(HAS_VECTOR, pa.bool_()),  # the content is as it was: the table's vector is copied
)
# What `decode` adds, and `encode` uses up.
DECODED_FIELDS = (
    pa.field(MODALITY, pa.string()),
    pa.field(TRUNCATED, pa.bool_()),
    pa.field(INPUT_IDS, pa.list_(pa.int32())),
    pa.field(PIXELS, pa.large_binary()),  # uint8 [S, S, 3]: a quarter of float32 on its way to the device
)
# Names that a source's own columns can't have: the flow's, the table's, and those that Lance adds to what is read.
LANCE_NAMES = {"_rowid", "_rowaddr", "_rowoffset", "_distance"}
LANCE_NAMES |= {"_row_created_at_version", "_row_last_updated_at_version"}
RESERVED = {field.name for field in (*READ_FIELDS, *FLOW_FIELDS, *DECODED_FIELDS)} | {VECTOR, RUN} | LANCE_NAMES

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


@dataclass(frozen=True)
class Reject:
    """Why a record became a row of `NAME_rejects` instead of one of the table."""

    stage: str
    reason: str
    message: str


def read_schema(extra: pa.Schema) -> pa.Schema:
    """What a source yields: the fixed columns, then its own (`extra`)."""
    return pa.schema([*READ_FIELDS, *extra])


def table_schema(extra: pa.Schema, dimension: int, *, image_uri: bool, store_images: bool) -> pa.Schema:
    """The schema of a table of embedded records, as users and searchers see it.

    `_object` and `_run` are plain strings: Lance dictionary-encodes repeated strings on disk by itself, and its
    scalar indexes refuse Arrow dictionaries.
    """
    fields = [
        pa.field(ID, pa.string()),
        pa.field(VECTOR, pa.list_(pa.float16(), dimension)),
        pa.field(TEXT, pa.string()),
        *([pa.field(IMAGE_URI, pa.string())] if image_uri else []),
        *([pa.field(IMAGE, pa.large_binary())] if store_images else []),
        *extra,
        pa.field(MODALITY, pa.string()),
        pa.field(TRUNCATED, pa.bool_()),
        pa.field(FINGERPRINT, FINGERPRINT_TYPE),
        pa.field(OBJECT, pa.string()),
        pa.field(RUN, pa.string()),
    ]
    return pa.schema(fields)


def fingerprint(text: str | None, image: bytes | pa.Buffer | None, elsewhere: str | None = None) -> bytes:
    """16 bytes that change when, and only when, what the encoder sees of a record changes (XXH3, 128 bits).

    No text and an empty text are the same to the encoder, and so have one fingerprint. `elsewhere` stands for an image
    that is not at hand: its URI and version.
    """
    encoded = (text or "").encode("utf-8", "surrogatepass")
    digest = xxhash.xxh3_128(len(encoded).to_bytes(8, "little"))
    digest.update(encoded)
    if elsewhere is not None:
        digest.update(b"\x02" + elsewhere.encode("utf-8", "surrogatepass"))
    else:
        digest.update(b"\x00" if image is None else b"\x01")
        digest.update(image or b"")
    return digest.digest()


def row_digests(fingerprints: pa.ChunkedArray, runs: pa.ChunkedArray) -> np.ndarray:
    """uint64 a row of the table, which changes whenever the job writes the row; of several rows the sum counts."""
    fingerprints, runs = (column.combine_chunks() for column in (fingerprints, runs))
    start = fingerprints.offset * FINGERPRINT_TYPE.byte_width
    halves = np.frombuffer(fingerprints.buffers()[1] or b"", np.uint64, 2 * len(fingerprints), start)
    names = runs.dictionary_encode()
    hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names.dictionary.to_pylist()], np.uint64)
    of_run = hashes[names.indices.to_numpy()] if len(runs) else np.empty(0, np.uint64)
    return (halves[0::2] * np.uint64(0x9E3779B97F4A7C15)) ^ of_run


def with_rejects(table: pa.Table, rejects: dict[int, Reject]) -> pa.Table:
    """`table` with `rejects` (row number to reason) marked; rows that were rejected before keep their reason."""
    if not rejects:
        return table
    for name, attribute in ((REASON, "reason"), (STAGE, "stage"), (MESSAGE, "message")):
        values = table[name].to_pylist()
        for row, reject in rejects.items():
            values[row] = values[row] or getattr(reject, attribute)
        table = replace_column(table, name, pa.array(values, pa.string()))
    return table


def replace_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """`table` with the column `name` replaced, or appended where there is none."""
    position = table.schema.get_field_index(name)
    if position < 0:
        return table.append_column(name, values)
    return table.set_column(position, name, values)


def alive(table: pa.Table) -> list[bool]:
    """Per row: is it a record to embed, that no stage has rejected?"""
    others = (pc.is_valid(table[REASON]), pc.is_valid(table[TALLY]), pc.fill_null(table[HAS_VECTOR], False))
    return pc.invert(functools.reduce(pc.or_, others)).to_pylist()
