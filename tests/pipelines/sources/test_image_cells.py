"""Cells of an image column: images in text, paths and URIs, words for no image, and several images in a cell."""

from __future__ import annotations

import base64
import io
import json
import random
import time
from urllib.parse import quote_from_bytes

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.image_cells import has_several, image_parts, split_cells
from vista_core.image_limits import FORMATS

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(kind: str = "PNG", seed: int = 0, size: tuple[int, int] = (48, 64)) -> bytes:
    """An image of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(file, kind)
    return file.getvalue()


IMAGES = {kind: image(kind) for kind in FORMATS}
PNG, JPEG = IMAGES["PNG"], IMAGES["JPEG"]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def read(column: pa.Array | pa.ChunkedArray) -> list[bytes | str | None]:
    """What a cell has: an image, the path or URI of one, the reason of a reject, or nothing."""
    images, uris, rejects = image_parts(column)
    cells = zip(images.to_pylist(), uris.to_pylist(), strict=True)
    assert all(each is None or uri is None for each, uri in cells)
    found = [each or uri for each, uri in zip(images.to_pylist(), uris.to_pylist(), strict=True)]
    assert all(found[row] is None for row in rejects)
    return [rejects[row].reason if row in rejects else each for row, each in enumerate(found)]


# Images in text


@pytest.mark.parametrize("content", [*IMAGES.values(), image("GIF", size=(1, 1)), image("PNG", size=(1, 1))])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_base64_of_each_format_is_an_image_however_it_is_written(content, kind):
    standard, url_safe = b64(content), base64.urlsafe_b64encode(content).decode()
    cells = [standard, url_safe, standard.rstrip("="), url_safe.rstrip("="), base64.encodebytes(content).decode()]
    cells += [
        f"{' ' if kind in (pa.string(), pa.large_string()) else ''}{standard}\n",
        str(base64.b64encode(content)),
        standard.replace("\n", "\r\n"),
    ]
    assert read(pa.array(cells).cast(kind)) == [content] * len(cells)


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_a_data_uri_is_an_image_whatever_its_media_type(kind):
    cells = [
        f"data:image/png;base64,{b64(JPEG)}",
        f"data:image/jpg;charset=utf-8;base64,{b64(JPEG)}",
        f"data:;base64,{b64(JPEG)}",
        f"data:application/octet-stream;BASE64,{b64(JPEG).rstrip('=')}",
        f"DATA:image/jpeg;base64, {b64(JPEG)}",
        f"data:image/jpeg;base64,{base64.encodebytes(JPEG).decode()}",
        f"data:image/jpeg;base64,{b64(JPEG).replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        f"data:image/jpeg,{quote_from_bytes(JPEG)}",
        f"data:image/jpeg,{b64(JPEG)}",
    ]
    assert read(pa.array(cells).cast(kind)) == [JPEG] * len(cells)


def test_what_is_no_image_is_told_by_decoding_it():
    """The decoder names the format, so that an SVG is not `damaged base64`."""
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    cells = [
        f"data:image/svg+xml;base64,{b64(svg)}",
        "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]
    assert read(pa.array(cells)) == [svg, svg]


@pytest.mark.parametrize(
    "cell",
    [
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,????",
        f"data:image/png;base64,{b64(PNG)[:41]}",
        f"data:image/png;base64,{b64(PNG)[:40]}=={b64(PNG)}",
        b64(PNG)[:401],
        b64(JPEG)[:400] + "%&" + b64(JPEG)[400:],
        b64(PNG) + "é",
    ],
)
def test_damaged_base64_rejects_its_own_row_and_the_message_is_short(cell):
    column = pa.array([cell, "a.jpg", b64(PNG)])
    assert read(column) == ["image_base64_invalid", "a.jpg", PNG]
    _, _, rejects = image_parts(column)
    assert rejects[0].stage == "read"
    assert rejects[0].message.startswith(cell[:30].encode("ascii", "backslashreplace").decode())
    assert len(rejects[0].message) < 200


def test_an_image_in_text_is_no_larger_than_an_image_file():
    images, _, rejects = image_parts(pa.array([b64(bytes(PNG[:20]) + bytes(3000)), b64(PNG)[:100]]), most_bytes=3000)
    assert [rejects[0].reason, rejects[0].stage] == ["image_too_large", "read"]
    assert list(rejects) == [0]
    assert images[1].as_py() == PNG[:75]


@pytest.mark.parametrize(
    "cell",
    [
        "/9j/a.jpg",
        "/9j/4AAQ/SkZJRg/ABAQEASABIAAD/a.jpg",
        "iVBORw0KGgo.png",
        "AAAA/products/front.jpg",
        "Qk0/a.jpg",
        "SUk.png",
        "data/images/a.jpg",
        "data",
        "database/a.jpg",
        "https://shop.com/a.jpg?x=data:image/png;base64,AAAA",
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_path_that_begins_like_base64_is_a_path(cell, kind):
    assert read(pa.array([cell, None], kind)) == [cell, None]


def test_in_structs_of_bytes_and_path_the_path_may_be_an_image():
    rows = [
        {"bytes": None, "path": b64(PNG)},
        {"bytes": JPEG, "path": f"data:image/png;base64,{b64(PNG)}"},
        {"bytes": JPEG, "path": "data:image/png;base64,???"},
        {"bytes": None, "path": "data:image/png;base64,???"},
        {"bytes": None, "path": " a.jpg "},
        {"bytes": None, "path": "nan"},
        None,
    ]
    expected = [PNG, JPEG, JPEG, "image_base64_invalid", "a.jpg", None, None]
    assert read(pa.array(rows, STRUCT)) == expected
    assert read(pa.chunked_array([pa.array(rows, STRUCT)]).slice(1)) == expected[1:]
    text = pa.struct([("bytes", pa.string()), ("path", pa.string())])
    assert read(pa.array([{"bytes": b64(PNG), "path": None}, {"bytes": None, "path": "b.jpg"}], text)) == [PNG, "b.jpg"]
    assert read(
        pa.array([{"bytes": None, "path": b64(PNG)}], pa.struct([("bytes", pa.null()), ("path", pa.string())]))
    ) == [PNG]


def test_bytes_that_are_images_stay_as_they_are_without_a_copy():
    column = pa.chunked_array([pa.array([*IMAGES.values(), None, b""])])
    images, uris, rejects = image_parts(column)
    assert images is column
    assert uris.null_count == len(column) and not rejects


@pytest.mark.parametrize(
    "word", ["", " ", "\t\n", "nan", "NaN", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "-", "\xa0"]
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_words_for_nothing_are_no_image_and_blanks_around_a_uri_are_no_part_of_it(word, kind):
    column = pa.chunked_array(
        [pa.array([word, f" {word} ", "a.jpg"], kind), pa.array(["\ta b.jpg \xa0", None, "nan.jpg"], kind)]
    )
    assert read(column) == [None, None, "a.jpg", "a b.jpg", None, "nan.jpg"]


def test_strings_that_are_not_utf8_are_left_to_their_own_check():
    binary = pa.array([b" \xff.jpg", b" a.jpg", b"nan"])
    column = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    _, uris, rejects = image_parts(column)
    assert uris.cast(pa.binary(), safe=False).to_pylist() == [b"\xff.jpg", b"a.jpg", None]
    assert not rejects


CATALOG = {
    "id": ["uri", "png", "jpeg", "damaged", "none", "path"],
    "text": list("abcdef"),
    "image": [f"data:image/png;base64,{b64(PNG)}", b64(PNG), b64(JPEG), "data:image/png;base64,?", "", "f.jpg"],
}
WRITERS = {
    "jsonl": lambda path: pd.DataFrame(CATALOG).to_json(path, orient="records", lines=True),
    "csv": lambda path: pd.DataFrame(CATALOG).to_csv(path, index=False),
    "parquet": lambda path: pl.DataFrame(CATALOG).write_parquet(path),
    "arrow": lambda path: feather.write_feather(pa.table(CATALOG), path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_images_in_text_are_read_from_each_format(tmp_path, kind):
    WRITERS[kind](str(tmp_path / f"a.{kind}"))
    source = open_source(str(tmp_path), Columns())
    [(records, rejects)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert records["image"].to_pylist() == [PNG, PNG, JPEG, None, None, None]
    assert records["image_uri"].to_pylist() == [None] * 5 + ["f.jpg"]
    assert {row: reject.reason for row, reject in rejects.items()} == {3: "image_base64_invalid"}


def test_lists_of_images_in_text_give_a_record_for_each(tmp_path):
    rows = [
        {"id": "a", "text": "x", "images": [b64(PNG), "nan", "b.jpg", "data:,"]},
        {"id": "b", "text": "y", "images": []},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(tmp_path), Columns())
    [(records, rejects)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert records["id"].to_pylist() == ["a#0", "a#1", "a#2", "a#3", "b#0"]
    assert records["image"].to_pylist()[:3] == [PNG, None, None]
    assert records["image_uri"].to_pylist() == [None, None, "b.jpg", None, None]
    assert {row: reject.reason for row, reject in rejects.items()} == {3: "image_base64_invalid"}


# Several images in a cell


def split(*cells: str | None, kind: pa.DataType | None = None) -> list[list[str] | None]:
    column = pa.array(cells, kind or pa.string())
    found = split_cells(column)
    assert found.type == pa.list_(column.type)
    assert split_cells(pa.chunked_array([column.slice(0, 1), column.slice(1)])) == found
    lists = found.to_pylist()
    assert has_several(column) or all(parts is None or len(parts) == 1 for parts in lists)
    return lists


A, B = "https://cdn.shop.com/w_100,h_100/a.jpg?x=1;y=2", "https://cdn.shop.com/b.jpg"


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        (f"{A},{B}", [A, B]),
        (f"{A}, {B}", [A, B]),
        (f" {A} | {B} |", [A, B]),
        (f"{A};{B};", [A, B]),
        (f"{A}\n{B}\r\n", [A, B]),
        (f"{A} {B}", [A, B]),
        (f"{A},,{B}", [A, B]),
        ("//cdn.shop.com/a,//cdn.shop.com/b", ["//cdn.shop.com/a", "//cdn.shop.com/b"]),
        ("www.shop.com/1,www.shop.com/2", ["www.shop.com/1", "www.shop.com/2"]),
        ("s3://shop/a;s3://shop/b", ["s3://shop/a", "s3://shop/b"]),
        ("/data/a,/data/b", ["/data/a", "/data/b"]),
        ("/data/my a.jpg|/data/my b.jpg", ["/data/my a.jpg", "/data/my b.jpg"]),
        ("/data/a.jpg /data/b.jpg", ["/data/a.jpg", "/data/b.jpg"]),
        ("img/a.jpg,img/b.PNG", ["img/a.jpg", "img/b.PNG"]),
        ("my a.jpg, my b.webp", ["my a.jpg", "my b.webp"]),
        ("a.jpg b.avif", ["a.jpg", "b.avif"]),
        ("cdn.com/a.jpg?v=1,cdn.com/b.jpg?v=2", ["cdn.com/a.jpg?v=1", "cdn.com/b.jpg?v=2"]),
        (json.dumps([A, B]), [A, B]),
        (json.dumps([A]), [A]),
        (json.dumps(["a b", None, "https:\\/\\/x"]), ["a b", "https:\\/\\/x"]),
        ('["https:\\/\\/x.com\\/a","b"]', ["https://x.com/a", "b"]),
        ("[]", None),
        (str([A, B]), [A, B]),
        (str(["it's", None, "b\\c"]), ["it's", "b\\c"]),
        (str(np.array([A, B])), [A, B]),
        (f"data:image/png;base64,{b64(PNG)},data:image/jpeg;base64,{b64(JPEG)}", None),
        (f"{b64(PNG)}|{b64(JPEG)}", [b64(PNG), b64(JPEG)]),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_several_images_in_a_cell_are_told_apart(cell, parts, kind):
    if parts is None and cell != "[]":
        parts = ["data:" + part.rstrip(",") for part in cell.split("data:")[1:]]
    assert split(cell, kind=kind) == [parts]
    if parts:
        assert has_several(pa.array([None, "a.jpg", cell], kind))


@pytest.mark.parametrize(
    "cell",
    [
        A,
        "https://shop.com/a photo, of a lamp; in the dark.jpg",
        "https://shop.com/a.jpg,b.jpg",
        "https://shop.com/a.jpg,",
        "https://res.cloudinary.com/x/image/fetch/w_1,h_2/https://shop.com/a.jpg",
        "/data/my photos, 2026/a.jpg",
        "my photo.jpg",
        "Smith, John; 1.jpg",
        "[1].jpg",
        "[1, 2]",
        '[{"url": "a.jpg"}]',
        "[" * 100_000,
        "['a",
        b64(PNG),
        base64.encodebytes(PNG).decode().strip(),
        f"data:image/png;base64,{b64(PNG)}",
        f"data:image/jpeg;base64,{base64.encodebytes(JPEG).decode().strip()}",
    ],
)
def test_one_image_is_not_split(cell):
    assert split(cell, None) == [[cell], None]
    assert not has_several(pa.array([cell, None]))


def test_words_for_nothing_are_no_list():
    assert split("nan", " ", None, "a.jpg") == [None, None, None, ["a.jpg"]]


SEGMENTS = st.text("abcXYZ019._~!$&'()*+,;=:@%|-", min_size=1, max_size=12).map(lambda part: f"{part}x")
URIS = st.builds(
    lambda start, path, query: f"{start}/{'/'.join(path)}{query}",
    st.sampled_from(["https://cdn.shop.com", "http://10.0.0.1:8080", "s3://bucket", "//cdn.shop.com", "HTTPS://A.com"]),
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.one_of(st.just(""), SEGMENTS.map(lambda part: f"?w={part}")),
).filter(lambda uri: "www." not in uri[2:])


@given(
    st.lists(URIS, min_size=1, max_size=5),
    st.sampled_from([",", ", ", "|", " | ", ";", "; ", "\n", "\r\n", " ", ",\n"]),
)
def test_as_many_uris_come_out_as_were_joined(uris, separator):
    assert split(separator.join(uris)) == [uris]


@given(st.lists(st.one_of(st.text(), URIS), max_size=5))
def test_json_lists_of_any_strings_are_read_as_they_are(strings):
    assert split(json.dumps(strings)) == [strings or None]


@given(st.text(), st.sampled_from(["", "data:", "[", "https://", "/", "iVBORw0KGgoAAAANSUhEUgAAAAAAAAAAAAAAA", "['"]))
def test_any_text_is_a_cell(text, start):
    column = pa.array([start + text])
    images, uris, rejects = image_parts(column)
    assert images.null_count + uris.null_count + len(rejects) in (1, 2, 3)
    split(start + text)


@pytest.mark.parametrize("part", [" ", ",", ", ", "/,", "data:", "\\", "a ", "['", "'a' ", "www.", ",\n ", "[,", ".a?"])
@pytest.mark.parametrize("start", ["", "https://", "/", "['", "data:,", "iVBORw0KGgoAAAANSUhEUgAAAAAAAAAAAAAAA"])
def test_hostile_cells_take_time_that_grows_with_their_length(start, part):
    cell = start + part * (400_000 // len(part)) + "x"
    began = time.perf_counter()
    column = pa.array([cell])
    has_several(column), split_cells(column), image_parts(column)
    assert time.perf_counter() - began < 3


def test_a_column_of_ordinary_uris_costs_next_to_nothing():
    """Fetching one costs at least a hundred times as much; a check of each cell in Python would be seen here."""
    random.seed(1)
    column = pa.array([f"https://cdn.shop.com/products/{random.random()}/front.jpg" for _ in range(100_000)])
    times = []
    for _ in range(3):
        began = time.perf_counter()
        image_parts(column)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1, "about 0.01 s"


def test_text_stored_as_binary_in_parquet_is_an_image(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "text": ["x"], "image": [b64(PNG).encode()]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path), Columns())
    [(records, _)] = [batch for unit in source.units() for batch in source.read(unit)]
    assert records["image"].to_pylist() == [PNG]
