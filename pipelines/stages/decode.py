"""Decode images to uint8 pixels and texts to token ids, on CPU workers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.cluster.watchdog import WATCHDOG
from pipelines.pictures import picture_of_image, picture_of_pixels
from pipelines.reasons import IMAGE_TRUNCATED, REASONS, Reject
from pipelines.records import (
    DECODED_FIELDS,
    IMAGE,
    INPUT_IDS,
    MODALITY,
    PICTURE,
    TEXT,
    TRUNCATED,
    Slot,
    embeddable,
    replace_column,
    with_rejects,
)
from pipelines.stages.report import reports_warnings
from pipelines.storage.model_files import local_files
from vista_core import EncoderSettings, Preprocessor, RecordError
from vista_core.hub import resolve_config
from vista_core.tokenizer import Tokens

PICTURES = 4  # of a batch: some kilobytes beside its vectors


@functools.lru_cache(maxsize=4)
def preprocessor(settings: EncoderSettings) -> Preprocessor:
    """Loaded once per worker process: the tokenizer takes a while to load."""
    return Preprocessor.load(local_files(settings, weights=False))


@functools.lru_cache(maxsize=4)
def slots_of(settings: tuple[EncoderSettings, ...]) -> tuple[Slot, ...]:
    """A slot for each of some encoders. Those that want the same pixels share them."""
    here = [local_files(each, weights=False) for each in settings]
    wanted = [(resolve_config(each).vision.image_size, each.alpha, each.resize) for each in here]
    owners = [wanted.index(each) for each in wanted]
    return tuple(Slot(number, owner, owner in owners[number + 1 :]) for number, owner in enumerate(owners))


@reports_warnings
def decode(
    records: pa.Table, settings: EncoderSettings, store_images: bool, others: Sequence[EncoderSettings] = ()
) -> pa.Table:
    """`records` with the encoder's input (`records.DECODED_FIELDS`); a record that can't be decoded is rejected.

    `others` are the settings of further encoders, whose input the records get under the names of their slots.
    """
    every = (settings, *others)
    slots, prepare = slots_of(every), [preprocessor(each) for each in every]
    texts, images = records[TEXT].to_pylist(), records[IMAGE]
    rejects: dict[int, Reject] = {}
    decoded: dict[int, np.ndarray] = {}
    columns: dict[str, pa.Array] = {}
    pictured = records
    for slot in slots:
        if slot.pixels_of == slot.number:
            needed = [embeddable(records, each.number) for each in slots if each.pixels_of == slot.number]
            wanted = np.any(needed, axis=0) & images.is_valid().to_numpy()
            pixels, decoded[slot.number], cut_off = decoded_images(images, wanted, prepare[slot.number], rejects)
            columns[slot.pixels] = pixel_column(pixels, decoded[slot.number])
            if not slot.number:
                pictured = with_pictures(records, pixels, decoded[0], cut_off)
    for slot in slots:
        has_image = decoded[slot.pixels_of]
        live = embeddable(records, slot.number)
        rows = [row for row in range(len(records)) if live[row] and row not in rejects]
        tokens = tokenized(prepare[slot.number], [texts[row] for row in rows], has_image[rows].tolist())
        found = {row: each for row, each in zip(rows, tokens, strict=True) if not isinstance(each, RecordError)}
        for row, error in zip(rows, tokens, strict=True):
            if isinstance(error, RecordError):
                rejects[row] = REASONS[error.reason].reject(error.message, stage="decode")
        every_row = range(len(records))
        ids = [np.asarray(found[row].input_ids) if row in found else None for row in every_row]
        columns[slot.named(INPUT_IDS)] = pa.array(ids, pa.list_(pa.int32()))
        if not slot.number:
            columns[TRUNCATED] = pa.array([found[row].truncated if row in found else None for row in every_row])
            modalities = [modality(texts[row], has_image[row]) if row in found else None for row in every_row]
            columns[MODALITY] = pa.array(modalities, pa.string())
    records = with_rejects(pictured, rejects)
    for field in (*DECODED_FIELDS, *(field for slot in slots[1:] for field in slot.own_fields)):
        records = records.append_column(field, columns[field.name].cast(field.type))
    return replace_column(records, IMAGE, images if store_images else pa.nulls(len(records), images.type))


def decoded_images(
    images: pa.ChunkedArray, wanted: np.ndarray, prepare: Preprocessor, rejects: dict[int, Reject]
) -> tuple[np.ndarray, np.ndarray, dict[int, bytes | None]]:
    """The pixels of the `wanted` images that can be decoded, which these are, and pictures of some that are cut off.

    Adds the others to `rejects`.
    """
    pixels = np.empty((wanted.sum(), prepare.image_size, prepare.image_size, 3), np.uint8)
    decoded = np.zeros(len(images), bool)
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
    return pixels, decoded, cut_off


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
