"""Decoding turns images into pixels and texts into tokens, and rejects records that can't be decoded."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.reasons import Reject
from pipelines.records import (
    DECODED_FIELDS,
    FLOW_FIELDS,
    HAS_VECTOR,
    STATS_TYPE,
    read_schema,
    replace_column,
    slot_name,
    with_rejects,
    with_slots,
)
from pipelines.stages.decode import decode
from vista_core import EncoderSettings, Preprocessor
from vista_core.hub import resolve_config

SETTINGS = EncoderSettings()
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "images"
JPEG = (GOLDEN / "00_rgb_640x480.jpg").read_bytes()


def png(width: int, height: int) -> bytes:
    """A PNG whose colour depends on its width."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def as_selected(rows: list[dict]) -> pa.Table:
    schema = pa.schema([*read_schema(pa.schema([("price", pa.float64())])), *FLOW_FIELDS])
    return pa.Table.from_pylist(rows, schema=schema)


def decoded(*rows: dict, settings: EncoderSettings = SETTINGS, store_images: bool = False) -> list[dict]:
    table = decode(as_selected(list(rows)), settings, store_images)
    for field in DECODED_FIELDS:
        assert table.schema.field(field.name) == field
    return table.to_pylist()


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    return Preprocessor.load(SETTINGS)


def test_each_modality_is_decoded(preprocessor):
    both, image, text, blank = decoded(
        {"id": "both", "text": "a red star", "image": JPEG},
        {"id": "image", "image": JPEG},
        {"id": "text", "text": "a red star"},
        {"id": "blank", "text": "", "image": JPEG},
    )
    assert [row["modality"] for row in (both, image, text, blank)] == ["image_text", "image", "text", "image"]
    size = preprocessor.image_size
    pixels = np.frombuffer(both["_pixels"], np.uint8).reshape(size, size, 3)
    np.testing.assert_array_equal(pixels, preprocessor.decode_image(JPEG))
    assert image["_pixels"] == both["_pixels"] == blank["_pixels"]
    assert text["_pixels"] is None
    [tokens] = preprocessor.tokenize(["a red star"], [True])
    assert both["_input_ids"] == text["_input_ids"] == list(tokens.input_ids)
    assert len(image["_input_ids"]) == 2, "an image without a text has the tokens of an empty text"
    assert not any(row["truncated"] for row in (both, image, text))


def test_a_bad_image_rejects_only_its_own_record_with_a_reason():
    bad = {
        "image_undecodable": b"this is no image",
        "image_truncated": JPEG[: len(JPEG) // 2],
        "image_too_elongated": png(2000, 2),
    }
    rows = decoded({"id": "good", "image": JPEG}, *({"id": r, "text": "x", "image": b} for r, b in bad.items()))
    assert [(row["id"], row["_reason"]) for row in rows] == [("good", None), *((reason, reason) for reason in bad)]
    for row in rows[1:]:
        assert row["_stage"] == "decode"
        assert row["_message"]
        assert [row[field.name] for field in DECODED_FIELDS] == [None] * len(DECODED_FIELDS)


def test_a_text_that_is_too_large_rejects_only_its_own_record():
    rows = decoded(
        {"id": "a", "text": "a red star"}, {"id": "b", "text": "ﷺ" * 60_000, "image": JPEG}, {"id": "c", "text": "x"}
    )
    assert [(row["_reason"], row["_stage"]) for row in rows] == [
        (None, None),
        ("text_too_large", "decode"),
        (None, None),
    ]
    assert [row["_input_ids"] is None for row in rows] == [False, True, False]


def test_each_record_gets_the_pixels_of_its_own_image(preprocessor):
    """Also between rejects and texts: the pixels of a neighbour would give a wrong vector that looks valid."""
    images = [JPEG, b"this is no image", png(30, 20), None, JPEG[: len(JPEG) // 2], png(300, 20), JPEG]
    rows = decoded(*({"id": str(n), "text": "x", "image": image} for n, image in enumerate(images)))
    good = {row: images[row] for row in (0, 2, 5, 6)}
    assert {row for row in range(len(images)) if rows[row]["_pixels"] is not None} == good.keys()
    for row, image in good.items():
        assert rows[row]["_pixels"] == preprocessor.decode_image(image).tobytes()


def test_a_text_that_does_not_fit_is_truncated_and_marked():
    long = "word " * 500
    alone, beside, short = decoded(
        {"id": "alone", "text": long}, {"id": "beside", "text": long, "image": JPEG}, {"id": "short", "text": "word"}
    )
    assert (alone["truncated"], beside["truncated"], short["truncated"]) == (True, True, False)
    limits = resolve_config(SETTINGS).max_tokens()
    assert (len(alone["_input_ids"]), len(beside["_input_ids"])) == limits
    [cut] = decoded({"id": "cut", "text": "one two three four five"}, settings=EncoderSettings(max_tokens=4))
    assert cut["truncated"]
    assert len(cut["_input_ids"]) == 4


def test_image_bytes_are_kept_only_with_store_images():
    [row] = decoded({"id": "a", "image": JPEG})
    assert row["image"] is None
    [row] = decoded({"id": "a", "image": JPEG}, store_images=True)
    assert row["image"] == JPEG


def test_transparency_is_handled_as_set_by_alpha():
    transparent = (GOLDEN / "06_rgba_250x250.png").read_bytes()
    [dropped] = decoded({"id": "a", "image": transparent})
    [white] = decoded({"id": "a", "image": transparent}, settings=EncoderSettings(alpha="white"))
    assert dropped["_pixels"] != white["_pixels"]


def test_rejected_rows_and_batch_statistics_pass_through_unchanged():
    stats = {"read": 7, "unchanged_addresses": [1], "unchanged_rows": [2]}
    table = as_selected([{"id": "bad", "text": "x", "image": JPEG, "price": 1.5}, {"_object": "o", "_stats": stats}])
    table = with_rejects(table, {0: Reject("read", "object_unreadable", "damaged")})
    result = decode(table, SETTINGS, store_images=True)
    for name in table.column_names:
        assert result[name].to_pylist() == table[name].to_pylist()
    for field in DECODED_FIELDS:
        assert result[field.name].to_pylist() == [None, None]
    assert result["_stats"].type == STATS_TYPE


def test_the_order_of_rows_and_the_other_columns_are_kept():
    rows = decoded(*({"id": f"k{n}", "text": f"text {n}", "price": n / 2, "_row": n} for n in range(50)))
    assert [(row["id"], row["price"], row["_row"]) for row in rows] == [(f"k{n}", n / 2, n) for n in range(50)]


def test_an_empty_batch_stays_empty():
    assert decode(as_selected([]), SETTINGS, store_images=False).num_rows == 0


def test_an_image_is_decoded_once_for_two_encoders_of_the_same_size(monkeypatch, preprocessor):
    seen = []
    decode_image = Preprocessor.decode_image
    monkeypatch.setattr(
        Preprocessor, "decode_image", lambda self, image: seen.append(image) or decode_image(self, image)
    )
    rows = [{"id": "both", "text": "one two three four", "image": JPEG}, {"id": "image", "image": png(30, 20)}]
    shorter, white = EncoderSettings(max_tokens=4), EncoderSettings(alpha="white")
    table = decode(with_slots(as_selected(rows), 2), SETTINGS, False, others=[shorter])
    assert seen == [JPEG, png(30, 20)]
    assert "_pixels_1" not in table.column_names
    assert [(len(row["_input_ids"]), len(row["_input_ids_1"])) for row in table.to_pylist()] == [(6, 4), (2, 2)]
    assert table["truncated"].to_pylist() == [False, False], "that of the first slot"
    seen.clear()
    table = decode(with_slots(as_selected(rows), 3), SETTINGS, False, others=[shorter, white])
    assert len(seen) == 4, "another alpha gives other pixels"
    assert table["_pixels_2"].null_count == 0


def test_a_record_is_decoded_for_the_slots_that_need_it():
    rows = [{"id": each, "text": "x", "image": JPEG} for each in ("first", "second", "none")]
    table = with_slots(as_selected(rows), 2)
    for name, has in ((HAS_VECTOR, [False, True, True]), (slot_name(HAS_VECTOR, 1), [True, False, True])):
        table = replace_column(table, name, pa.array(has))
    table = decode(table, SETTINGS, False, others=[EncoderSettings(max_tokens=4)])
    found = table.select(["_input_ids", "_input_ids_1", "_pixels", "modality"]).to_pylist()
    assert [[value is not None for value in row.values()] for row in found] == [
        [True, False, True, True],
        [False, True, True, False],
        [False, False, False, False],
    ]
    assert table["_reason"].null_count == 3


def test_a_record_that_one_of_two_encoders_cannot_take_is_rejected():
    rows = [{"id": "good", "text": "x"}, {"id": "large", "text": "ﷺ" * 60_000}]
    table = decode(with_slots(as_selected(rows), 2), SETTINGS, False, others=[EncoderSettings(max_tokens=4)])
    assert table["_reason"].to_pylist() == [None, "text_too_large"]
