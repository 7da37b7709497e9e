"""Decode images to uint8 pixels and texts to token ids, on CPU workers."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa

from pipelines.records import (
    DECODED_FIELDS,
    IMAGE,
    INPUT_IDS,
    MODALITY,
    PIXELS,
    TEXT,
    TRUNCATED,
    Reject,
    alive,
    replace_column,
    with_rejects,
)
from vista_core import EncoderSettings, Preprocessor, RecordError


@functools.lru_cache(maxsize=2)
def preprocessor(settings: EncoderSettings) -> Preprocessor:
    """One a worker process: the tokenizer takes a while to load."""
    return Preprocessor.load(settings)


def decode(records: pa.Table, settings: EncoderSettings, store_images: bool) -> pa.Table:
    """`records` with what the encoder reads (`records.DECODED_FIELDS`); one that can't be decoded is rejected."""
    prepare = preprocessor(settings)
    live = alive(records)
    texts, images = records[TEXT].to_pylist(), records[IMAGE]
    pixels: list[bytes | None] = [None] * len(records)
    rejects: dict[int, Reject] = {}
    for row in range(len(records)):
        if live[row] and images[row].is_valid:
            try:
                pixels[row] = prepare.decode_image(images[row].as_py()).tobytes()
            except RecordError as error:
                rejects[row] = Reject("decode", error.reason, error.message)

    rows = [row for row in range(len(records)) if live[row] and row not in rejects]
    with_image = [pixels[row] is not None for row in rows]
    tokens = dict(zip(rows, prepare.tokenize([texts[row] for row in rows], with_image), strict=True))
    values: dict[str, list] = {
        MODALITY: [modality(texts[row], pixels[row]) if row in tokens else None for row in range(len(records))],
        TRUNCATED: [tokens[row].truncated if row in tokens else None for row in range(len(records))],
        INPUT_IDS: [np.asarray(tokens[row].input_ids) if row in tokens else None for row in range(len(records))],
        PIXELS: pixels,
    }
    records = with_rejects(records, rejects)
    for field in DECODED_FIELDS:
        records = records.append_column(field, pa.array(values[field.name], field.type))
    kept = images if store_images else pa.nulls(len(records), images.type)
    return replace_column(records, IMAGE, kept)


def modality(text: str | None, pixels: bytes | None) -> str:
    """`text`, `image` or `image_text`."""
    return "text" if pixels is None else "image_text" if text else "image"
