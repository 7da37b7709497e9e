"""Samples of tar shards become records, and none is read in part."""

import gzip
import io
import json
import posixpath
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.samples import key_and_ending, samples
from pipelines.sources.webdataset import WebDataset
from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.files import list_files
from tests.pipelines.sources.shards import (
    BLOCK,
    FORMATS,
    columns,
    member,
    misfits,
    open_shard,
    open_shards,
    pair,
    pairs,
    read,
    reasons,
    tar,
)
from vista_core.image_limits import SUFFIXES

# What is read


@pytest.mark.parametrize(
    ("name", "shard"),
    [("sub/s-000.tar", "sub/s-000"), ("s.tgz", "s"), ("s.v1.tar.gz", "s.v1"), ("S.TAR", "S"), ("ü %2#.tar", "ü %2#")],
)
def test_members_of_one_name_are_a_sample(store, name, shard):
    fields = ("000.json", b'{"width": 3, "url": "u"}'), ("000.cls", b"7")
    content = tar(*pair("000"), *fields, ("001.txt", b"alone"), ("002.jpg", b"image of 002"))
    content = gzip.compress(content) if name.endswith("gz") else content
    store.put(name, content)
    source = open_shards(store.root)
    rows, rejected = read(source)
    assert rejected == []
    assert columns(rows, "id", "text", "image", "width", "url", "cls", "_row") == [
        (f"{shard}/000", "text of 000", b"image of 000", 3, "u", "7", 0),
        (f"{shard}/001", "alone", None, None, None, None, 1),
        (f"{shard}/002", None, b"image of 002", None, None, None, 2),
    ]
    assert {row["_object"] for row in rows} == {store.uri(name)}
    assert source.describe()[0] == f"1 tar shard(s), {len(content) / 1e6:.2f} MB"


@pytest.mark.parametrize("style", FORMATS)
def test_names_of_any_length_and_script(local, style):
    keys = ["k" * 90, "a/" * 45 + "k" * 40, "日本/" * 20 + "ü" if style != "ustar" else "日本/ü", "b.c/d", "x y"]
    rows, rejected = read(open_shard(local, *(part for key in keys for part in pair(key)), style=style))
    assert rejected == []
    assert columns(rows, "id", "text") == [(f"s/{key}", f"text of {key}") for key in keys]


def test_extended_headers_with_other_fields(local):
    """A global header, which has nothing of use; and a size in an extended header, as large members have it."""
    every = tarfile.TarInfo.create_pax_global_header({"comment": "x", "path": "no.txt"})
    image = member("a.jpg")
    image.pax_headers = {"size": "3", "mtime": "1.5"}
    content = image.tobuf(tarfile.PAX_FORMAT) + b"abc".ljust(BLOCK, b"\0")
    local.put("s.tar", every + content + tar(("a.txt", b"x"), *pair("b")))
    rows, rejected = read(open_shards(local.root))
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [("s/a", "x", b"abc"), ("s/b", "text of b", b"image of b")]


def test_names_are_normalised_and_need_not_be_utf8(local):
    names = ["./a.jpg", "a.txt", "/b.jpg", "./b.TXT", "./c//d.JPG", "caf\udce9.txt"]
    source = open_shard(local, *((name, b"x") for name in names))
    rows, rejected = read(source)
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [
        ("s/a", "x", b"x"),
        ("s/b", "x", b"x"),
        ("s/c/d", None, b"x"),
        ("s/caf\\xe9", "x", None),
    ]


@pytest.mark.parametrize("style", ["gnu", "pax"])
def test_other_members_do_not_interrupt_a_sample(local, style):
    link = member("k.npy", kind=tarfile.SYMTYPE)
    link.linkname = "elsewhere/" * 20
    between = [
        link,
        member("a", kind=tarfile.DIRTYPE),
        member("pipe.txt", 100, tarfile.FIFOTYPE),  # has no content, whatever size its header states
        *((name, b"?") for name in ("__meta__.json", "__url__", "README", ".DS_Store", "._k.jpg", "x/._k.txt", "dot.")),
    ]
    image, text = pair("k")
    rows, rejected = read(open_shard(local, *between, image, *between, text, *between, style=style))
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [("s/k", "text of k", b"image of k")]


def test_endings_that_are_not_read_are_reported(local):
    others = ("a.npy", b"1"), ("a.seg.npz", b"2"), ("a.caption", b"longer")
    source = open_shard(local, *pair("a"), *others, ("b.npy", b"3"), ("c.caption", b"third"), ("d.text", b"fourth"))
    assert source.describe()[0].endswith("; not read: .caption, .npy, .seg.npz")
    rows, rejected = read(source)
    assert rejected == []
    assert [row["text"] for row in rows] == ["text of a", None, "third", "fourth"]
    assert rows[1]["id"] == "s/b", "a sample of which nothing is read is still a record, rejected as empty"


def test_the_last_newline_of_a_text_is_dropped_and_a_blank_text_is_null(local):
    texts = "\ufeff text \r\n".encode(), b" \n", b"", "naïve 😀".encode(), b"\xe9"
    source = open_shard(local, *((f"{n}.txt", text) for n, text in enumerate(texts)))
    rows, rejected = read(source)
    assert [row["text"] for row in rows] == [" text ", None, None, "naïve 😀"]
    [(shard, row, key, reason, message)] = rejected
    assert (shard, row, key, reason) == ("s.tar", 4, "s/4", "text_not_utf8")
    assert message.startswith(f"{local.uri('s.tar')}: 4: its .txt: 'utf-8' codec can't decode byte 0xe9")


def test_an_empty_image_is_not_null(local):
    rows, _ = read(open_shard(local, ("a.jpg", b""), ("a.txt", b"x")))
    assert rows[0]["image"] == b"", "so that decoding rejects it"


def test_only_requested_columns_are_made(local):
    local.put("s.tar", tar(*pair("a"), ("a.json", b'{"n": 1}')))
    form = WebDataset.open(list_files(local.root), None, DEFAULTS)
    assert form.schema.names == ["__key__", "image", "txt", "n"]
    [unit] = form.units()
    [batch] = form.batches(unit, ["n", "txt"])
    assert batch.table.to_pydict() == {"txt": ["text of a"], "n": [1]}


def test_a_shard_is_a_unit_whose_rows_are_estimated_from_the_first_shard(store):
    for shard, count in (("1", 100), ("2", 300)):
        store.put(f"{shard}.tar", pairs(*(f"{n:04}" for n in range(count))))
    store.put("3.tar", b"")
    source = open_shards(store.root)
    units = source.units()
    assert not source.exact
    assert [unit.uri for unit in units] == [store.uri(f"{n}.tar") for n in (1, 2, 3)]
    assert 90 <= units[0].rows <= 110
    assert 270 <= units[1].rows <= 330
    assert units[2].rows == 0
    assert source.without_listing().units() == []


# Several images


def test_each_image_of_a_sample_is_a_row(local):
    names = ["a.left.jpg", "a.right.PNG", "a.txt", "b.jpg", "c.txt"]
    rows, rejected = read(open_shard(local, *((name, name.encode()) for name in names)))
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [
        ("s/a#0", "a.txt", b"a.left.jpg"),
        ("s/a#1", "a.txt", b"a.right.PNG"),
        ("s/b#0", None, b"b.jpg"),
        ("s/c#0", "c.txt", None),
    ]


def test_a_later_sample_with_more_members_is_rejected(local):
    local.put("1.tar", tar(("a.jpg", b"a")))
    names = "b.left.jpg", "b.right.jpg", "c.jpg", "c.txt", "d.jpg"
    local.put("2.tar", tar(*((name, b"x") for name in names)))
    rows, rejected = read(open_shards(local.root, limits=Limits(first_shards=1)))
    assert [row["id"] for row in rows] == ["1/a", "2/d"]
    assert reasons(rejected) == [("2/b", "several_images"), ("2/c", "column_type")]
    assert "it has 2 images, but none of the first samples of some shards" in rejected[0][-1]
    assert "it has a member for 'txt', but none of the first samples of some shards" in rejected[1][-1]


def test_an_image_where_the_source_has_none_rejects_the_sample(local):
    local.put("1.tar", tar(("a.txt", b"a")))
    local.put("2.tar", tar(*pair("b"), ("c.txt", b"c")))
    rows, rejected = read(open_shards(local.root, limits=Limits(first_shards=1)))
    assert [row["id"] for row in rows] == ["1/a", "2/c"]
    assert reasons(rejected) == [("2/b", "column_type")]


# Fields of JSON


def with_fields(*fields: object) -> list[tuple[str, bytes]]:
    records = [json.dumps(value).encode() for value in fields]
    return [part for n, record in enumerate(records) for part in ((f"{n}.jpg", b"i"), (f"{n}.json", record))]


@pytest.mark.parametrize(
    ("values", "kind", "unfit"),
    [
        ([1, None, 2], pa.int64(), []),
        ([1, 2.5], pa.float64(), []),
        (["a", {}, "b", [], "c"], pa.string(), [1, 3]),
        ([1, {}, 2.5, []], pa.float64(), [1, 3]),
        ([True, False, [1]], pa.bool_(), [2]),
        ([["a"], [], ["b"]], pa.list_(pa.string()), []),
        ([{"a": 1}, {"b": "x"}, {"a": 2.5}], pa.struct([("a", pa.float64()), ("b", pa.string())]), []),
        ([1, 2.5, (1 << 63) + 1, 1 << 64], pa.float64(), [2]),
        ([1, (1 << 64) - 1], pa.uint64(), []),
    ],
)
def test_a_field_has_the_type_of_most_values_and_others_are_null(local, values, kind, unfit):
    source = open_shard(local, *with_fields(*({"f": value} for value in values)))
    assert source.extra.field("f").type == kind
    rows, rejected = read(source)
    assert rejected == [], "a value that only passes through costs no record"
    assert [(key, column) for key, column, _ in misfits(source)] == [(f"s/{n}", "f") for n in unfit]
    read_back = {row["id"]: row["f"] for row in rows}
    for n, value in enumerate(values):
        full = {"a": None, "b": None} | value if isinstance(value, dict) else value
        assert read_back[f"s/{n}"] == (None if n in unfit else full)


def test_a_field_that_is_always_null_or_is_named_like_a_member_is_no_column(local):
    fields = {"f": None, "txt": "t", "cls": 1, "image": "i", "__key__": "k", "g": 1}
    source = open_shard(local, *with_fields(fields))
    assert source.extra.names == ["g"]
    rows, _ = read(source)
    assert columns(rows, "id", "text", "image", "g") == [("s/0", None, b"i", 1)]


def test_the_message_names_a_later_value_that_does_not_fit(local):
    values = [1, 1.5, 2.0, "x", True, 1 << 63, None, [1], {"a": 1}, 7]
    fields = with_fields(*({"price": value, "d": {"n": value}} for value in values))
    source = open_shard(local, *fields, limits=Limits(first_samples=1))
    rows, rejected = read(source)
    assert [row["price"] for row in rows] == [1, None, 2, None, None, None, None, None, None, 7]
    assert [row["d"] and row["d"]["n"] for row in rows][:4] == [1, None, 2, None], "in a struct, too"
    assert rejected == []
    unfit = misfits(source)
    assert unfit[0] == ("s/1", "price", "price is 1.5, which can't be read as int64")
    assert [key for key, column, _ in unfit if column == "price"] == [f"s/{n}" for n in (1, 3, 4, 5, 7, 8)]


@pytest.mark.parametrize("limits", [Limits(first_samples=1), Limits(first_bytes=1)], ids=["samples", "bytes"])
def test_numbers_are_not_rounded_to_fit_a_type_found_before(local, limits):
    fields = with_fields({"n": 1}, {"n": 2.0}, {"n": 1.5}, {"n": 2.5})
    source = open_shard(local, *fields, limits=limits)
    assert [row["n"] for row in read(source)[0]] == [1, 2, None, None]
    assert [key for key, *_ in misfits(source)] == ["s/2", "s/3"]


def test_columns_of_the_table_have_its_types(local):
    kinds = {"n": pa.float32(), "day": pa.date32(), "rare": pa.int16(), "text": pa.int64(), "txt": pa.int64()}
    source = open_shard(local, *with_fields({"n": 1, "day": "2024-05-01", "text": "x"}), like=pa.schema(kinds.items()))
    assert {name: source.extra.field(name).type for name in source.extra.names} == {
        name: kinds[name] for name in ("n", "day", "rare")
    }
    rows, rejected = read(source)
    assert rejected == []
    assert columns(rows, "n", "rare", "text") == [(1.0, None, "x")]
    assert str(rows[0]["day"]) == "2024-05-01"


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"{", "json_unparsable", "Expecting property name"),
        (b"", "json_unparsable", "Expecting value"),
        (b"[1]", "json_unparsable", "not an object but a list"),
        (b"null", "json_unparsable", "not an object but a NoneType"),
        (b'{"\\ud800": 1}', "json_unparsable", "surrogates not allowed"),
        (b"[" * 100_000, "json_unparsable", "nested too deeply"),
        (b'{"n": "\xff"}', "text_not_utf8", "its .json: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_bad_json_rejects_its_sample(local, content, reason, message):
    good = ("0.jpg", b"i"), ("0.json", b'\xef\xbb\xbf{"n": 1, "s": "x"}')
    rows, rejected = read(open_shard(local, *good, ("1.jpg", b"i"), ("1.json", content), ("2.jpg", b"i")))
    assert columns(rows, "id", "n", "s") == [("s/0", 1, "x"), ("s/2", None, None)]
    assert reasons(rejected) == [("s/1", reason)]
    assert message in rejected[0][-1]


def test_half_a_surrogate_pair_in_a_field_is_null(local):
    source = open_shard(local, *with_fields({"s": "x"}, {"s": "\ud800"}))
    assert columns(read(source)[0], "id", "s") == [("s/0", "x"), ("s/1", None)]
    assert misfits(source) == [("s/1", "s", r's is "\ud800", which ' "can't be read as text in UTF-8")]


def test_columns_come_from_the_first_samples_of_shards_at_the_beginning_at_the_end_and_between(local):
    """A first shard without captions must not lose those of all others."""
    for n in range(20):
        fields = {"n": n, **({"rare": "x"} if n == 19 else {}), "price": 1.5 if n == 10 else 1}
        caption = [("b.txt", b"caption")] if n else []
        local.put(f"{n:02}.tar", tar(("a.jpg", b"i"), ("a.json", json.dumps(fields).encode()), *caption))
    source = open_shards(local.root, limits=Limits(first_shards=3))
    assert source.layout.text == ("txt",)
    assert {field.name: field.type for field in source.extra} == {
        "n": pa.int64(),
        "price": pa.int64(),
        "rare": pa.string(),
    }
    assert open_shards(local.root, limits=Limits(first_shards=20)).extra.field("price").type == pa.float64()
    rows, rejected = read(source)
    assert (len(rows), rejected) == (39, [])


def test_a_damaged_shard_among_those_that_are_looked_at_is_left_out(local):
    local.put("1.tar", b"damaged" * 1000)
    local.put("2.tar", pairs("a"))
    local.put("3.tar", tar(("a.npy", b"neither text nor image")))
    source = open_shards(local.root)
    assert (source.layout.text, source.layout.image) == (("txt",), "image")


# The real library


@pytest.fixture
def written(local) -> Path:
    Path(local.root).mkdir(parents=True)
    return Path(local.root) / "s.tar"


NAMES = [
    *("a.jpg", "a.txt", "b.v2.jpg", "b.v2.txt", "sub/c.JPG", "sub/c.txt", "sub.d/c.jpg", "sub.d/c.txt"),
    *("__d__.jpg", "__d__.txt", "__url__", "__meta__/a.jpg", "e/__f.jpg", "README", "x.y/README", "ü 日本/g#%?.png"),
]


def test_keys_and_endings_are_those_of_the_library(written):
    written.write_bytes(tar(*((name, b"x") for name in NAMES), style="pax"))
    expected = webdataset.WebDataset(str(written), shardshuffle=False, empty_check=False)
    with written.open("rb") as file:
        found = {sample.key: sample.endings for sample in samples(file, DEFAULTS)}
    assert found == {sample["__key__"]: {name for name in sample if not name.startswith("__")} for sample in expected}


@given(st.lists(st.text("ab._/é", min_size=1, max_size=12), min_size=1, max_size=8))
def test_a_name_is_divided_as_the_library_does_it(names):
    for name in names:
        path = posixpath.normpath(name).lstrip("/")
        base = path.rpartition("/")[2]
        if base.startswith(".") or base.endswith(".") or re.match("__[^/]*__(/|$)", path):
            continue  # hidden files, for which the library makes a key of the folder; no ending; metadata
        key, ending = webdataset.tariterators.base_plus_ext(path)
        assert key_and_ending(name) == (None if key is None else (key, ending.lower()))


def test_what_tar_writer_writes_is_read(written):
    with webdataset.TarWriter(str(written)) as sink:
        for n in range(3):
            image = Image.new("RGB", (4, 4), (n, n, n))
            sink.write({"__key__": f"dir/{n:03}", "jpg": image, "json": {"n": n}, "txt": f"text {n}", "cls": n})
            sink.write({"__key__": f"dir/{n:03}x", "png": image, "npy": np.zeros(3)})
    source = open_shards(str(written))
    assert "; not read: .npy" in source.describe()[0]
    rows, rejected = read(source)
    assert rejected == []
    assert columns(rows, "id", "text", "n", "cls")[::2] == [(f"s/dir/{n:03}", f"text {n}", n, str(n)) for n in range(3)]
    assert columns(rows, "id", "text")[1::2] == [(f"s/dir/{n:03}x", None) for n in range(3)]
    assert all(Image.open(io.BytesIO(row["image"])).size == (4, 4) for row in rows)


def test_names_of_which_one_sample_is_made_or_a_text_is_lost_are_said_at_the_start(local):
    source = open_shard(local, *((name, b"x") for name in ("p.1.jpg", "p.1.txt", "p.2.jpg", "p.2.txt", "q.jpg")))
    said = source.describe()[0]
    assert "a key ends at the first dot: p.1.jpg and p.2.jpg are images of one record; if not, rename them" in said
    assert "NOT READ, texts of several endings, such as p.1.txt: a key ends at the first dot; rename them" in said
    assert "first dot" not in open_shard(local, *pair("a"), *pair("b")).describe()[0]


# Images


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_ending_of_images_is_read(local, suffix):
    rows, _ = read(open_shard(local, (f"a{suffix}", b"i"), (f"b{suffix.upper()}", b"j"), ("a.txt", b"x")))
    assert columns(rows, "id", "image") == [("s/a", b"i"), ("s/b", b"j"), ("s/a", None)]


@pytest.mark.parametrize("ending", ["heic", "SVG", "left.jp2"])
def test_a_sample_whose_only_image_has_another_format_is_rejected_and_named_at_the_start(local, ending):
    others = (f"b.{ending}", b"?"), ("b.txt", b"b"), (f"c.{ending}", b"?"), ("c.jpg", b"c"), ("c.txt", b"c")
    source = open_shard(local, *pair("a"), *others, ("d.txt", b"d"))
    assert f"NOT READ, images in other formats: .{ending.lower().rpartition('.')[2]} (convert" in source.describe()[0]
    rows, rejected = read(source)
    assert columns(rows, "id", "image") == [("s/a", b"image of a"), ("s/c", b"c"), ("s/d", None)]
    assert reasons(rejected) == [("s/b", "image_unsupported")]
    assert f"its image is .{ending.lower()}: convert them; the formats read are JPEG, PNG" in rejected[0][-1]


# Samples that are rejected as a whole


def test_a_sample_with_an_ending_twice_is_rejected(local):
    source = open_shard(local, *pair("a"), *pair("b"), *pair("b"), *pair("c"), *pair("a"))
    rows, rejected = read(source)
    assert [row["id"] for row in rows] == ["s/a", "s/c", "s/a"], "the second is rejected later, as a duplicate id"
    assert reasons(rejected) == [("s/b", "several_members")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_sample_whose_image_is_a_link_is_rejected(local, kind):
    links = member("b.jpg", kind=kind), ("b.txt", b"b"), ("c.txt", b"c"), member("c.npy", kind=kind)
    rows, rejected = read(open_shard(local, *pair("a"), *links))
    assert [row["id"] for row in rows] == ["s/a", "s/c"]
    assert reasons(rejected) == [("s/b", "object_unreadable")]
    assert "its .jpg is a link: pack the file (tar -h" in rejected[0][-1]


@pytest.mark.parametrize("endings", [["jpg"], ["1.jpg", "2.jpg"]])
def test_a_sample_that_is_too_large_is_not_read(local, endings):
    big = [(f"b.{ending}", bytes(3001 // len(endings) + 1)) for ending in endings]
    video = ("c.mp4", bytes(10_000))
    shard = *pair("a"), *big, ("b.txt", b"b"), video, ("c.txt", b"c")
    rows, rejected = read(open_shard(local, *shard, limits=Limits(webdataset_sample_bytes=3000)))
    assert [row["id"] for row in rows] == ["s/a", "s/c"] if len(endings) == 1 else ["s/a#0", "s/c#0"]
    assert reasons(rejected) == [(rejected[0][2], "image_too_large")]
    assert f"its .{endings[-1]} has " in rejected[0][-1]


# Streaming


@settings(max_examples=30)
@given(count=st.integers(1, 60), size=st.integers(0, 300), ceiling=st.integers(1, 2000))
def test_a_batch_is_bounded_in_bytes_and_samples(tmp_path_factory, count, size, ceiling):
    path = tmp_path_factory.mktemp("bounded") / "a.tar"
    path.write_bytes(tar(*((f"{n}.jpg", bytes(size)) for n in range(count))))
    source = open_shards(str(path), limits=Limits(batch_bytes=ceiling, batch_samples=20))
    found = [table["_row"].to_pylist() for table, _ in source.read(source.units()[0])]
    assert [row for part in found for row in part] == list(range(count))
    sizes = [len(part) for part in found]
    assert max(sizes) <= 20
    assert max(sizes) * size < ceiling + size or max(sizes) == 1


def test_a_store_is_read_in_large_parts_as_they_are_needed(faulty_bucket):
    image = bytes(range(256)) * 100
    faulty_bucket.put("s.tar", tar(*((f"{n}.jpg", image) for n in range(300)), ("z.mp4", bytes(4 << 20))))
    requests = faulty_bucket.proxy.requests
    source = open_shards(faulty_bucket.root, limits=Limits(read_bytes=1 << 20, first_samples=10))
    assert len(requests) == 1, "only the first samples"
    batches = source.read(source.units()[0])
    assert len(next(batches)[0]) == 256
    assert len(requests) == 1 + 7, "not the whole shard"
    assert sum(len(table) for table, _ in batches) == 300 - 256 + 1
    assert len(requests) < 1 + 10, "nor what is skipped"


@pytest.mark.parametrize("packed", [False, True])
def test_archives_that_are_appended_to_each_other_are_all_read(local, packed):
    parts = [pairs("a", "b"), pairs("c"), pairs("d")[: 4 * BLOCK] + bytes(2 * BLOCK), pairs("e"), pairs("f")]
    local.put("s.tar", b"".join(gzip.compress(part) if packed else part for part in parts))
    rows, rejected = read(open_shards(local.root))
    assert rejected == []
    assert columns(rows, "id", "text") == [(f"s/{key}", f"text of {key}") for key in "abcdef"]


# Sources that change or fail


def test_a_shard_that_is_replaced_after_listing_is_not_read(store):
    source = open_shard(store, *pair("a"))
    [unit] = source.units()
    store.put("s.tar", pairs("b", "c"))
    with pytest.raises(SourceChangedError, match=r"s\.tar changed"):
        list(source.read(unit))


def test_a_failing_store_is_not_taken_for_damage(faulty_bucket):
    """A later run can read the samples. Rejecting them would lose them."""
    source = open_shard(faulty_bucket, *pair("a"))
    [unit] = source.units()
    faulty_bucket.proxy.fail("501", "READ")
    with pytest.raises(SourceError, match=r"s\.tar: OSError.*Not Implemented.*AWS_"):
        list(source.read(unit))
    with pytest.raises(SourceError):
        open_shards(faulty_bucket.root)


def test_a_failing_connection_is_not_taken_for_damage(faulty):
    """Its error has no errno, like those of damage."""
    source = open_shard(faulty, *pair("a"))
    faulty.fail(ConnectionError("reset"))
    with pytest.raises(SourceError, match="ConnectionError: reset"):
        open_shards(faulty.root)
    with pytest.raises(SourceError, match="ConnectionError: reset"):
        read(source)
