"""Decode images to uint8 pixels and texts to token ids, on CPU workers."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.cluster.watchdog import WATCHDOG
from pipelines.pictures import picture_of_image, picture_of_pixels
from pipelines.reasons import IMAGE_TRUNCATED, REASONS, Reject
from pipelines.records import (
    DECODED_FIELDS,
    IMAGE,
    INPUT_IDS,
    MODALITY,
    PICTURE,
    PIXELS,
    TEXT,
    TRUNCATED,
    embeddable,
    replace_column,
    with_rejects,
)
from pipelines.stages.report import reports_warnings
from vista_core import EncoderSettings, Preprocessor, RecordError
from vista_core.tokenizer import Tokens

PICTURES = 4  # of a batch: some kilobytes beside its vectors


@functools.lru_cache(maxsize=2)
def preprocessor(settings: EncoderSettings) -> Preprocessor:
    """Loaded once per worker process: the tokenizer takes a while to load."""
    return Preprocessor.load(settings)


@reports_warnings
def decode(records: pa.Table, settings: EncoderSettings, store_images: bool) -> pa.Table:
    """`records` with the encoder's input (`records.DECODED_FIELDS`); a record that can't be decoded is rejected."""
    prepare = preprocessor(settings)
    live = embeddable(records)
    texts, images = records[TEXT].to_pylist(), records[IMAGE]
    wanted = np.logical_and(live, pc.is_valid(images))
    pixels = np.empty((wanted.sum(), prepare.image_size, prepare.image_size, 3), np.uint8)
    decoded = np.zeros(len(records), bool)
    rejects: dict[int, Reject] = {}
    cut_off: dict[int, bytes | None] = {}
    for row in np.flatnonzero(wanted).tolist():
        try:
            pixels[np.count_nonzero(decoded)] = prepare.decode_image(images[row].as_py())
            decoded[row] = True
        except RecordError as error:
            rejects[row] = REASONS[error.reason].reject(error.message, stage="decode")
            if error.reason == IMAGE_TRUNCATED.name and len(cut_off) < PICTURES:
                cut_off[row] = picture_of_image(images[row].as_py(), partly=True)
        WATCHDOG.progress()

    rows = [row for row in range(len(records)) if live[row] and row not in rejects]
    tokens = {}
    for row, result in zip(rows, tokenized(prepare, [texts[row] for row in rows], decoded[rows].tolist()), strict=True):
        if isinstance(result, RecordError):
            rejects[row] = REASONS[result.reason].reject(result.message, stage="decode")
        else:
            tokens[row] = result
    values = {
        MODALITY: [modality(texts[row], decoded[row]) if row in tokens else None for row in range(len(records))],
        TRUNCATED: [tokens[row].truncated if row in tokens else None for row in range(len(records))],
        INPUT_IDS: [np.asarray(tokens[row].input_ids) if row in tokens else None for row in range(len(records))],
        PIXELS: pixel_column(pixels, decoded),
    }
    records = with_pictures(with_rejects(records, rejects), pixels, decoded, cut_off)
    for field in DECODED_FIELDS:
        records = records.append_column(field, pa.array(values[field.name], field.type))
    kept = images if store_images else pa.nulls(len(records), images.type)
    return replace_column(records, IMAGE, kept)


def with_pictures(
    records: pa.Table, pixels: np.ndarray, decoded: np.ndarray, others: dict[int, bytes | None]
) -> pa.Table:
    """`records` with small pictures of some images, evenly spaced, for the report of the run; and with `others`."""
    if not (decoded.any() or others):
        return records
    found = np.flatnonzero(decoded)
    chosen = range(0, len(found), max(1, len(found) // PICTURES))[:PICTURES]
    pictures = others | {int(found[at]): picture_of_pixels(pixels[at]) for at in chosen}
    return replace_column(records, PICTURE, pa.array([pictures.get(row) for row in range(len(records))], pa.binary()))


def tokenized(prepare: Preprocessor, texts: list[str | None], with_image: list[bool]) -> list[Tokens | RecordError]:
    """For each text its tokens, or why it has none."""
    try:
        return list(prepare.tokenize(texts, with_image))
    except RecordError as error:
        if len(texts) == 1:
            return [error]
    return [tokenized(prepare, [text], [image])[0] for text, image in zip(texts, with_image, strict=True)]


def modality(text: str | None, has_image: bool) -> str:
    """`text`, `image` or `image_text`."""
    return "text" if not has_image else "image_text" if text else "image"


def pixel_column(pixels: np.ndarray, decoded: np.ndarray) -> pa.LargeBinaryArray:
    """`pixels` uint8 [N, S, S, 3] as a column that is null where not `decoded`, without a copy of the pixels."""
    offsets = np.append(0, np.cumsum(decoded * np.int64(pixels[:1].nbytes)))
    valid = np.packbits(decoded, bitorder="little")
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(decoded), [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(pixels)]
    )
