"""Tar shards of all kinds, whole and damaged, become samples; none is read in part."""

import dataclasses
import errno
import gzip
import io
import json
import re
import tarfile

import pyarrow as pa
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.records import read_schema
from pipelines.sources import webdataset
from pipelines.sources.columns import Columns
from pipelines.sources.image_folder import file_text
from pipelines.sources.objects import SourceChangedError, SourceError, list_objects
from pipelines.sources.tabular import Tabular
from pipelines.sources.webdataset import WebDataset
from vista_core import UsageError

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "elsewhere" if kind in (b"1", b"2") else ""
    return info


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, style: str = "ustar") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=FORMATS[style]) as archive:
        for item in members:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
            else:
                archive.addfile(member(item[0], len(item[1])), io.BytesIO(item[1]))
    return packed.getvalue()


def pair(key: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.jpg", f"image of {key}".encode()), (f"{key}.txt", f"text of {key}".encode())


def pairs(*keys: str, style: str = "ustar") -> bytes:
    return tar(*(part for key in keys for part in pair(key)), style=style)


def open_shards(uri: str, like: pa.Schema | None = None) -> Tabular:
    return Tabular.open(WebDataset.open(list_objects(uri), like), Columns(), uri)


def read(source: Tabular) -> tuple[list[dict], list[tuple]]:
    """The records that can be read; and of the others shard, row, id, reason and message."""
    records, rejected = [], []
    for unit in source.units():
        numbers = []
        for table, rejects in source.without_listing().read(json.loads(json.dumps(unit))):
            assert table.schema == read_schema(source.extra)
            for row, record in enumerate(table.to_pylist()):
                if row in rejects:
                    where = record["_object"].rpartition("/")[2]
                    rejected.append((where, record["_row"], record["id"], rejects[row].reason, rejects[row].message))
                else:
                    records.append(record)
                numbers.append(record["_row"])
        assert numbers == sorted(numbers)
    return records, rejected


def open_shard(store, *members, like: pa.Schema | None = None, style: str = "ustar") -> Tabular:
    store.put("s.tar", tar(*members, style=style))
    return open_shards(store.root, like)


def columns(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


def reasons(rejected: list[tuple]) -> list[tuple]:
    return [(id_, reason) for _, _, id_, reason, _ in rejected]


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


def test_headers_that_say_more_of_a_member(local):
    """A global one, which says nothing of use; and a size that comes in front, as it does where it is large."""
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
def test_what_is_no_part_of_a_sample_does_not_interrupt_one(local, style):
    link = member("k.npy", kind=tarfile.SYMTYPE)
    link.linkname = "elsewhere/" * 20
    between = [
        link,
        member("a", kind=tarfile.DIRTYPE),
        member("pipe.txt", 100, tarfile.FIFOTYPE),  # has no content, whatever it says
        *((name, b"?") for name in ("__meta__.json", "__url__", "README", ".DS_Store", "._k.jpg", "x/._k.txt", "dot.")),
    ]
    image, text = pair("k")
    rows, rejected = read(open_shard(local, *between, image, *between, text, *between, style=style))
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [("s/k", "text of k", b"image of k")]


def test_endings_that_are_not_read_are_said(local):
    others = ("a.npy", b"1"), ("a.seg.npz", b"2"), ("a.caption", b"longer")
    source = open_shard(local, *pair("a"), *others, ("b.npy", b"3"), ("c.caption", b"third"), ("d.text", b"fourth"))
    assert source.describe()[0].endswith("; not read: .caption, .npy, .seg.npz")
    rows, rejected = read(source)
    assert rejected == []
    assert [row["text"] for row in rows] == ["text of a", None, "third", "fourth"]
    assert rows[1]["id"] == "s/b", "a sample of which nothing is read is still one, to be rejected as empty"


def test_a_texts_last_newline_is_no_part_of_it_and_a_blank_one_is_none(local):
    texts = "\ufeff text \r\n".encode(), b" \n", b"", "naïve 😀".encode(), b"\xe9"
    source = open_shard(local, *((f"{n}.txt", text) for n, text in enumerate(texts)))
    rows, rejected = read(source)
    assert [row["text"] for row in rows] == [" text ", None, None, "naïve 😀"]
    [(shard, row, key, reason, message)] = rejected
    assert (shard, row, key, reason) == ("s.tar", 4, "s/4", "text_not_utf8")
    assert message.startswith(f"{local.uri('s.tar')}: 4: its .txt: 'utf-8' codec can't decode byte 0xe9")


def test_an_image_without_bytes_is_not_taken_for_none(local):
    rows, _ = read(open_shard(local, ("a.jpg", b""), ("a.txt", b"x")))
    assert rows[0]["image"] == b"", "so that decoding rejects it"


def test_only_the_columns_asked_for_are_made(local):
    local.put("s.tar", tar(*pair("a"), ("a.json", b'{"n": 1}')))
    form = WebDataset.open(list_objects(local.root), None)
    assert form.schema.names == ["__key__", "image", "txt", "n"]
    [unit] = form.units()
    [batch] = form.batches(unit, ["n", "txt"])
    assert batch.table.to_pydict() == {"txt": ["text of a"], "n": [1]}


def test_shards_are_units_their_rows_guessed_by_the_first(store):
    for shard, count in (("1", 100), ("2", 300)):
        store.put(f"{shard}.tar", pairs(*(f"{n:04}" for n in range(count))))
    store.put("3.tar", b"")
    source = open_shards(store.root)
    units = source.units()
    assert not source.exact
    assert [unit["object"] for unit in units] == [store.uri(f"{n}.tar") for n in (1, 2, 3)]
    assert 90 <= units[0]["rows"] <= 110
    assert 270 <= units[1]["rows"] <= 330
    assert units[2]["rows"] == 0
    assert source.without_listing().units() == []


# Several images


def test_several_images_of_a_sample_are_a_row_each(local):
    names = ["a.left.jpg", "a.right.PNG", "a.txt", "b.jpg", "c.txt"]
    rows, rejected = read(open_shard(local, *((name, name.encode()) for name in names)))
    assert rejected == []
    assert columns(rows, "id", "text", "image") == [
        ("s/a#0", "a.txt", b"a.left.jpg"),
        ("s/a#1", "a.txt", b"a.right.PNG"),
        ("s/b#0", None, b"b.jpg"),
        ("s/c#0", "c.txt", None),
    ]


def test_what_only_a_later_sample_has_rejects_it(local):
    local.put("1.tar", tar(("a.jpg", b"a")))
    names = "b.left.jpg", "b.right.jpg", "c.jpg", "c.txt", "d.jpg"
    local.put("2.tar", tar(*((name, b"x") for name in names)))
    rows, rejected = read(open_shards(local.root))
    assert [row["id"] for row in rows] == ["1/a", "2/d"]
    assert reasons(rejected) == [("2/b", "several_images"), ("2/c", "column_type")]
    assert "it has 2 images, none of the first samples of the first shard" in rejected[0][-1]
    assert "it has a member for 'txt', none of the first samples of the first shard" in rejected[1][-1]


def test_an_image_where_the_source_has_none_rejects_the_sample(local):
    local.put("1.tar", tar(("a.txt", b"a")))
    local.put("2.tar", tar(*pair("b"), ("c.txt", b"c")))
    rows, rejected = read(open_shards(local.root))
    assert [row["id"] for row in rows] == ["1/a", "2/c"]
    assert reasons(rejected) == [("2/b", "column_type")]


# Fields of JSON


def with_fields(*fields: object) -> list[tuple[str, bytes]]:
    records = [json.dumps(value).encode() for value in fields]
    return [part for n, record in enumerate(records) for part in ((f"{n}.jpg", b"i"), (f"{n}.json", record))]


@pytest.mark.parametrize(
    ("values", "kind", "misfits"),
    [
        ([1, None, 2], pa.int64(), []),
        ([1, 2.5], pa.float64(), []),
        (["a", 1, "b", 2.5, "c"], pa.string(), [1, 3]),
        ([1, "a", 2.5, True], pa.float64(), [1, 3]),
        ([True, False, 1], pa.bool_(), [2]),
        ([["a"], [], ["b"]], pa.list_(pa.string()), []),
        ([{"a": 1}, {"b": "x"}, {"a": 2.5}], pa.struct([("a", pa.float64()), ("b", pa.string())]), []),
        ([1, 2, 1 << 63, 1 << 64], pa.float64(), [2, 3]),
        ([1, (1 << 64) - 1], pa.uint64(), []),
    ],
)
def test_a_field_has_the_type_of_most_values_and_the_rest_is_rejected(local, values, kind, misfits):
    source = open_shard(local, *with_fields(*({"f": value} for value in values)))
    assert source.extra.field("f").type == kind
    rows, rejected = read(source)
    assert reasons(rejected) == [(f"s/{n}", "column_type") for n in misfits]
    read_back = {row["id"]: row["f"] for row in rows}
    for n, value in enumerate(values):
        if n not in misfits:
            full = {"a": None, "b": None} | value if isinstance(value, dict) else value
            assert read_back[f"s/{n}"] == full


def test_a_field_that_is_always_null_or_is_named_like_a_member_is_no_column(local):
    fields = {"f": None, "txt": "t", "cls": 1, "image": "i", "__key__": "k", "g": 1}
    source = open_shard(local, *with_fields(fields))
    assert source.extra.names == ["g"]
    rows, _ = read(source)
    assert columns(rows, "id", "text", "image", "g") == [("s/0", None, b"i", 1)]


def test_a_later_value_that_does_not_fit_is_named(local, monkeypatch):
    monkeypatch.setattr(webdataset, "FIRST_SAMPLES", 1)
    values = [1, 1.5, 2.0, "x", True, 1 << 63, None, [1], {"a": 1}, 7]
    rows, rejected = read(open_shard(local, *with_fields(*({"price": value, "d": {"n": value}} for value in values))))
    assert [row["price"] for row in rows] == [1, 2, None, 7]
    assert [row["d"]["n"] for row in rows] == [1, 2, None, 7], "in a struct, too"
    assert {reason for *_, reason, _ in rejected} == {"column_type"}
    assert rejected[0][-1] == f"{local.uri('s.tar')}: 1: price is 1.5, which can't be read as int64"


@pytest.mark.parametrize("limit", ["FIRST_SAMPLES", "FIRST_BYTES"])
def test_numbers_are_not_rounded_to_fit_a_type_found_before(local, monkeypatch, limit):
    monkeypatch.setattr(webdataset, limit, 1)
    rows, rejected = read(open_shard(local, *with_fields({"n": 1}, {"n": 2.0}, {"n": 1.5}, {"n": 2.5})))
    assert [row["n"] for row in rows] == [1, 2]
    assert reasons(rejected) == [("s/2", "column_type"), ("s/3", "column_type")]


@given(st.permutations([1, 2.0, True, 1.5, "x", None, [1], {"a": 1}, 1 << 70]))
def test_a_value_is_read_or_rejected_whatever_its_neighbours(values):
    array, rejects = webdataset.converted(pa.field("f", pa.float64()), values)
    assert [value for value in array.to_pylist() if value is not None] == [
        value for value in values if value in (1, 2.0, 1.5) and value is not True
    ]
    assert all((row in rejects) == (array[row].as_py() is None and values[row] is not None) for row in range(9))


def test_types_of_the_table_come_first(local):
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
        (b'{"s": "\\ud800"}', "column_type", r's is "\ud800"'),
    ],
)
def test_bad_json_rejects_its_sample(local, content, reason, message):
    good = ("0.jpg", b"i"), ("0.json", b'\xef\xbb\xbf{"n": 1, "s": "x"}')
    rows, rejected = read(open_shard(local, *good, ("1.jpg", b"i"), ("1.json", content), ("2.jpg", b"i")))
    assert columns(rows, "id", "n", "s") == [("s/0", 1, "x"), ("s/2", None, None)]
    assert reasons(rejected) == [("s/1", reason)]
    assert message in rejected[0][-1]


# Samples that are not read in part


def test_a_sample_with_an_ending_twice_is_rejected(local):
    source = open_shard(local, *pair("a"), *pair("b"), *pair("b"), *pair("c"), *pair("a"))
    rows, rejected = read(source)
    assert [row["id"] for row in rows] == ["s/a", "s/c", "s/a"], "the sink rejects the second"
    assert reasons(rejected) == [("s/b", "several_members")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_sample_whose_image_is_a_link_is_rejected(local, kind):
    links = member("b.jpg", kind=kind), ("b.txt", b"b"), ("c.txt", b"c"), member("c.npy", kind=kind)
    rows, rejected = read(open_shard(local, *pair("a"), *links))
    assert [row["id"] for row in rows] == ["s/a", "s/c"]
    assert reasons(rejected) == [("s/b", "object_unreadable")]
    assert "its .jpg is a link: pack the file (tar -h" in rejected[0][-1]


@pytest.mark.parametrize("endings", [["jpg"], ["1.jpg", "2.jpg"]])
def test_a_sample_that_is_too_large_is_not_read(local, monkeypatch, endings):
    monkeypatch.setattr(webdataset, "MAX_SAMPLE_BYTES", 3000)
    big = [(f"b.{ending}", bytes(3001 // len(endings) + 1)) for ending in endings]
    video = ("c.mp4", bytes(10_000))
    rows, rejected = read(open_shard(local, *pair("a"), *big, ("b.txt", b"b"), video, ("c.txt", b"c")))
    assert [row["id"] for row in rows] == ["s/a", "s/c"] if len(endings) == 1 else ["s/a#0", "s/c#0"]
    assert reasons(rejected) == [(rejected[0][2], "image_too_large")]
    assert f"its .{endings[-1]} has " in rejected[0][-1]


# A stream


@settings(max_examples=30)
@given(count=st.integers(1, 60), size=st.integers(0, 300), ceiling=st.integers(1, 2000))
def test_a_batch_is_bounded_in_bytes_and_samples(tmp_path_factory, count, size, ceiling):
    path = tmp_path_factory.mktemp("bounded") / "a.tar"
    path.write_bytes(tar(*((f"{n}.jpg", bytes(size)) for n in range(count))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "BATCH_BYTES", ceiling)
        patch.setattr(webdataset, "BATCH_SAMPLES", 20)
        source = open_shards(str(path))
        found = [table["_row"].to_pylist() for table, _ in source.read(source.units()[0])]
    assert [row for part in found for row in part] == list(range(count))
    sizes = [len(part) for part in found]
    assert max(sizes) <= 20
    assert max(sizes) * size < ceiling + size or max(sizes) == 1


def test_a_store_is_read_in_large_parts_as_they_are_needed(bucket, monkeypatch):
    monkeypatch.setattr(webdataset, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(webdataset, "FIRST_SAMPLES", 10)
    image = bytes(range(256)) * 100
    bucket.put("s.tar", tar(*((f"{n}.jpg", image) for n in range(300)), ("z.mp4", bytes(4 << 20))))
    asked, fetch = [], s3fs.S3File._fetch_range
    monkeypatch.setattr(s3fs.S3File, "_fetch_range", lambda *place: asked.append(place) or fetch(*place))
    source = open_shards(bucket.root)
    assert len(asked) == 1, "only the first samples"
    batches = source.read(source.units()[0])
    assert len(next(batches)[0]) == 256
    assert len(asked) == 1 + 7, "not the whole shard"
    assert sum(len(table) for table, _ in batches) == 300 - 256 + 1
    assert len(asked) < 1 + 10, "nor what is skipped"


@pytest.mark.parametrize("packed", [False, True])
def test_archives_that_are_joined_are_read_all(local, packed):
    parts = [pairs("a", "b"), pairs("c"), pairs("d")[: 4 * BLOCK] + bytes(2 * BLOCK), pairs("e"), pairs("f")]
    local.put("s.tar", b"".join(gzip.compress(part) if packed else part for part in parts))
    rows, rejected = read(open_shards(local.root))
    assert rejected == []
    assert columns(rows, "id", "text") == [(f"s/{key}", f"text of {key}") for key in "abcdef"]


# Damage


def replaced(source: Tabular, local, content: bytes, name: str = "s.tar") -> Tabular:
    """The source with another object in the place of the one by which it was opened."""
    local.put(name, content)
    form = dataclasses.replace(source.format, listing=list_objects(local.root))
    return dataclasses.replace(source, format=form)


def header_at(content: bytes, name: str) -> int:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmember(name).offset


def overwritten(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("c.jpg", ["b", "c", "d"]),  # of c, the text alone is left, and whose it is nobody knows
        ("c.txt", ["c", "d"]),
        ("a.jpg", ["a", "b"]),
        ("e.txt", ["e"]),
    ],
)
def test_a_damaged_header_costs_the_samples_around_it(store, name, lost):
    good = pairs(*"abcde")
    source = open_shard(store, *(part for key in "abcde" for part in pair(key)))
    at = header_at(good, name)
    rows, rejected = read(replaced(source, store, overwritten(good, at + 124, b"8")))
    assert [row["id"] for row in rows] == [f"s/{key}" for key in "abcde" if key not in lost]
    assert all(row["text"] and row["image"] for row in rows)
    assert {reason for *_, reason, _ in rejected} == {"object_unreadable"}
    assert f"{store.uri('s.tar')}: the tar is damaged from byte {at:,} to byte " in rejected[0][-1]
    assert {key for _, _, key, _, _ in rejected if key} <= {f"s/{key}" for key in lost}


def test_damage_within_a_sample_costs_only_that_one(local):
    shard = [part for key in "abc" for part in (*pair(key), (f"{key}.cls", b"1"), (f"{key}.json", b'{"n": 1}'))]
    source, good = open_shard(local, *shard), tar(*shard)
    rows, rejected = read(replaced(source, local, overwritten(good, header_at(good, "b.txt"), b"\xff")))
    assert [row["id"] for row in rows] == ["s/a", "s/c"]
    assert reasons(rejected) == [(None, "object_unreadable"), ("s/b", "object_unreadable")]


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("style", ["gnu", "pax"])
def test_a_name_that_lost_its_extended_header_is_not_believed(local, style, blocks):
    """What the member's own header has then is a makeshift, and the rest of its sample looks whole."""
    keys = [letter * 120 for letter in "abcdef"]
    good = pairs(*keys, style=style)
    source = open_shard(local, *(part for key in keys for part in pair(key)), style=style)
    at = header_at(good, keys[2] + ".jpg")
    assert good[at + 156 : at + 157] in (b"x", b"L")
    rows, rejected = read(replaced(source, local, overwritten(good, at + blocks * BLOCK, b"\xff")))
    assert [row["id"] for row in rows] == [f"s/{keys[n]}" for n in (0, 3, 4, 5)]
    assert all(row["text"] and row["image"] for row in rows)
    assert len(rejected) == 3


@pytest.mark.parametrize(("at", "by"), [(0, b"x"), (0, b"0"), (0, b"-"), (3, b"0" * 60), (1, b"00")])
def test_an_extended_header_that_makes_no_sense_is_damage(local, at, by):
    shard = [part for key in "abcdef" for part in pair(key * 120)]
    source, good = open_shard(local, *shard, style="pax"), tar(*shard, style="pax")
    place = header_at(good, "c" * 120 + ".jpg") + BLOCK
    rows, rejected = read(replaced(source, local, overwritten(good, place + at, by)))
    assert {"s/" + key * 120 for key in "aef"} <= {row["id"] for row in rows} < {"s/" + key * 120 for key in "abdef"}
    assert all(row["text"] and row["image"] for row in rows)
    assert rejected


def test_an_extended_header_without_its_member_is_damage(local):
    """The hole looks like the end of an archive; and the name is not that of the member behind it."""
    keys = ["a", "b", "c" * 120, "d", "e", "f"]
    shard = [part for key in keys for part in pair(key)]
    source, good = open_shard(local, *shard, style="pax"), tar(*shard, style="pax")
    place = header_at(good, "c" * 120 + ".txt") + 2 * BLOCK
    rows, rejected = read(replaced(source, local, overwritten(good, place, bytes(2 * BLOCK))))
    assert [row["id"] for row in rows] == ["s/a", "s/b", "s/e", "s/f"]
    assert rejected


@pytest.mark.parametrize(
    ("kind", "size"),
    [*((tarfile.REGTYPE, n) for n in (-1, -(1 << 40), 1 << 41, 1 << 80)), (tarfile.GNUTYPE_LONGNAME, 1 << 39)],
)
def test_an_impossible_size_is_damage(local, kind, size):
    odd = member("b.mp4", kind=kind)
    odd.size = size
    head, rest = tar(*pair("a"))[: 4 * BLOCK], pairs("b", "c", "d", "e")
    source = open_shard(local, *pair("a"))
    rows, rejected = read(replaced(source, local, head + odd.tobuf(tarfile.GNU_FORMAT) + rest))
    assert [row["id"] for row in rows][-2:] == ["s/d", "s/e"]
    assert all(row["text"] and row["image"] for row in rows)
    assert "the tar is damaged from byte 2,048 to byte 2,560" in rejected[0][-1]


def test_a_possible_size_that_is_not_there_is_a_cut(store):
    source = open_shard(store, *pair("a"))
    video = member("c.mp4", 1 << 39).tobuf(tarfile.GNU_FORMAT)
    rows, rejected = read(replaced(source, store, pairs("a", "b")[: 8 * BLOCK] + video + bytes(BLOCK)))
    assert [row["id"] for row in rows] == ["s/a", "s/b"]
    assert "the tar is cut off, or its end was never written: no end mark" in rejected[0][-1]


@pytest.mark.parametrize("blocks", [1, 4, 8, 24])
def test_a_hole_is_not_taken_for_an_end(local, blocks):
    """Members of one block: a hole of whole members looks like the zeros between joined archives."""
    source = open_shard(local, *(part for n in range(20) for part in pair(f"{n:02}")))
    good = pairs(*(f"{n:02}" for n in range(20)))
    if blocks == 1:  # an empty member
        rest = (part for n in range(2, 20) for part in pair(f"{n:02}"))
        good = tar(*pair("00"), ("01.jpg", b""), ("01.txt", b"x"), *rest)
    rows, rejected = read(replaced(source, local, overwritten(good, 4 * BLOCK, bytes(blocks * BLOCK))))
    assert {"s/00", "s/01"}.isdisjoint(row["id"] for row in rows)
    assert all(row["text"] and row["image"] for row in rows)
    assert len(rows) >= 2
    assert rejected[0][3:] == ("object_unreadable", rejected[0][-1])
    assert "damaged from byte 2,048" in rejected[0][-1]


def test_a_tail_of_zeros_is_no_end(local):
    """So is a file whose space was reserved, and that was not downloaded to its end."""
    source = open_shard(local, *pair("a"), *pair("b"))
    rows, rejected = read(replaced(source, local, pairs("a", "b")[: 8 * BLOCK] + bytes(30_000)))
    assert [row["id"] for row in rows] == ["s/a"]
    assert [(row, reason) for _, row, _, reason, _ in rejected] == [(1, "object_unreadable")]
    assert "cut off" in rejected[0][-1]


def test_wherever_a_tar_is_cut_off_whole_samples_are_read_and_the_rest_is_missed(local):
    good = pairs(*"abc")
    source = open_shard(local, *(part for key in "abc" for part in pair(key)))
    for end in range(0, 15 * BLOCK, 64):
        rows, rejected = read(replaced(source, local, good[:end]))
        whole = 3 if end > 12 * BLOCK else max(0, (end - 1) // (4 * BLOCK))  # the next one's header says so
        assert [row["text"] for row in rows] in ([f"text of {key}" for key in "abc"][:n] for n in (whole - 1, whole))
        assert all(row["image"] for row in rows)
        if end <= 12 * BLOCK:
            assert [(row, reason) for _, row, _, reason, _ in rejected] == [(len(rows), "object_unreadable")]
            assert "cut off" in rejected[0][-1], end
        else:
            assert rejected == []
            assert len(rows) == 3


def test_damaged_gzip_costs_what_comes_after(local):
    keys = [f"{n:03}" for n in range(200)]
    good = gzip.compress(pairs(*keys), 0)
    source = open_shard(local, *pair("a"))
    cut, flipped = good[: len(good) // 2], overwritten(good, len(good) - 8, b"\0\0\0\0")
    for content, whole in ((cut, len(cut) // (4 * BLOCK)), (flipped, 200)):
        rows, rejected = read(replaced(source, local, content))
        assert whole - 1 <= len(rows) <= whole
        assert columns(rows, "text") == [(f"text of {key}",) for key in keys[: len(rows)]]
        assert [(row, reason) for _, row, _, reason, _ in rejected] == [(len(rows), "object_unreadable")]


@pytest.mark.parametrize("content", [b"", b"not a tar", b"PK\3\4" * 1000, bytes(1 << 20)])
def test_what_is_no_tar_is_one_reject(store, content):
    store.put("1.tar", content)
    store.put("2.tar", pairs("a"))
    source = open_shards(store.root)
    rows, rejected = read(source)
    assert [row["id"] for row in rows] == ["2/a"]
    assert [item[:4] for item in rejected] == [("1.tar", 0, None, "object_unreadable")]
    assert "1.tar: the tar is cut off" in rejected[0][-1]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", r"1\.tar: the tar is cut off, or its end was never written: no end mark"),
        (
            b"not a tar",
            r"1\.tar: the tar is cut off, or its end .* no end mark, and nothing from byte 0 on makes sense",
        ),
        (tar(), r"1\.tar: no sample has a text or an image"),
        (tar(("a.npy", b"x"), ("README", b"x")), r"1\.tar: no sample has a text or an image"),
        (tar(("a.json", b"?")), r"1\.tar: its \.json: Expecting value"),
        (gzip.compress(pairs("a"), mtime=0)[:20], r"1\.tar: Compressed file ended"),
    ],
)
def test_a_source_without_any_readable_sample_is_a_usage_error(local, content, cause):
    for n in range(1, 10):
        local.put(f"{n}.tar", content)
    with pytest.raises(UsageError, match=rf"no readable tar shard: .*{cause}"):
        open_shards(local.root)


def test_a_sparse_file_is_not_read_as_it_is_stored(local):
    sparse = tarfile.TarInfo("GNUSparseFile.0/b.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg"}
    old = member("c.jpg", kind=tarfile.GNUTYPE_SPARSE)
    for style, header in (("pax", sparse), ("gnu", old)):
        rest = (("b.txt", b"b"), *(part for key in "defg" for part in pair(key)))
        rows, rejected = read(open_shard(local, *pair("a"), header, *rest, style=style))
        assert "s/g" in [row["id"] for row in rows]
        assert all(row["text"] and row["image"] for row in rows)
        assert rejected


CONTENTS = st.binary(min_size=1, max_size=1300).map(lambda content: content.replace(b"\0", b"0"))
MADE = st.fixed_dictionaries(
    {},
    optional={
        "jpg": CONTENTS,
        "txt": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
        "json": st.integers(-9, 9),
        "npy": CONTENTS,
    },
).filter(bool)
KEYS = st.text("ab/ü", min_size=1, max_size=6).map(lambda key: re.sub("/+", "/", key).strip("/") or "a")
LONG_KEYS = st.tuples(KEYS, st.sampled_from(["", "x" * 98, "y" * 130])).map("".join)
SHARDS = st.lists(st.tuples(LONG_KEYS, MADE), min_size=1, max_size=8, unique_by=lambda item: item[0])
WHOLE = (("first.jpg", b"1"), ("first.txt", b"1"), ("first.json", b'{"n": 1}'), ("first.npy", b"1"))


def packed(made: list[tuple[str, dict]], style: str) -> bytes:
    members = []
    for key, contents in made:
        for ending, content in contents.items():
            content = json.dumps({"n": content}) if ending == "json" else content
            members.append((f"{key}.{ending}", content.encode() if isinstance(content, str) else content))
    return tar(*members, style=style)


def headers_of(content: bytes) -> list[int]:
    """Where headers are, extended ones included."""
    found, at = [], 0
    while content[at : at + BLOCK].strip(b"\0"):
        found.append(at)
        at += BLOCK + -(-tarfile.TarInfo.frombuf(content[at : at + BLOCK], "utf-8", "replace").size // BLOCK) * BLOCK
    return found


def read_made(tmp_path_factory, content: bytes) -> tuple[dict[str, dict], list[tuple]]:
    path = tmp_path_factory.mktemp("made") / "s.tar"
    path.write_bytes(tar(*WHOLE))
    source = open_shards(str(path))
    path.write_bytes(content)
    form = dataclasses.replace(source.format, listing=list_objects(str(path)))
    rows, rejected = read(dataclasses.replace(source, format=form))
    found = {row["id"].removeprefix("s/"): (row["image"], row["text"], row["n"]) for row in rows}
    assert len(found) == len(rows)
    return found, rejected


def expected(made: list[tuple[str, dict]]) -> dict[str, tuple]:
    return {key: (c.get("jpg"), file_text(c.get("txt", "").encode()), c.get("json")) for key, c in made}


@given(made=SHARDS, style=st.sampled_from(["gnu", "pax"]))
def test_what_is_packed_is_read(tmp_path_factory, made, style):
    assert read_made(tmp_path_factory, packed(made, style)) == (expected(made), [])


@settings(max_examples=400)
@given(made=SHARDS, style=st.sampled_from(["gnu", "pax"]), data=st.data())
def test_with_damaged_headers_a_sample_is_read_whole_or_missed(tmp_path_factory, made, style, data):
    content = packed(made, style)
    hurt = data.draw(st.lists(st.sampled_from(headers_of(content)), min_size=1, max_size=3, unique=True))
    for at in hurt:
        byte = at + data.draw(st.integers(0, BLOCK - 1))
        content = overwritten(content, byte, bytes([content[byte] ^ data.draw(st.integers(1, 255))]))
    check_missed(read_made(tmp_path_factory, content), expected(made), len(hurt))


@settings(max_examples=200)
@given(made=SHARDS, style=st.sampled_from(["gnu", "pax"]), data=st.data())
def test_cut_off_a_sample_is_read_whole_or_missed(tmp_path_factory, made, style, data):
    content = packed(made, style)
    end = data.draw(st.integers(0, len(content.rstrip(b"\0")) + BLOCK))
    check_missed(read_made(tmp_path_factory, content[:end]), expected(made), len(made))


@settings(max_examples=200)
@given(made=SHARDS, style=st.sampled_from(["gnu", "pax"]), data=st.data())
def test_with_a_header_gone_a_sample_is_read_whole_or_missed(tmp_path_factory, made, style, data):
    content = packed(made, style)
    at = data.draw(st.sampled_from(headers_of(content)))
    block = data.draw(st.sampled_from([bytes(BLOCK), b"\xff" * BLOCK]))
    content = overwritten(content, at, block)
    check_missed(read_made(tmp_path_factory, content), expected(made), 1)


def check_missed(outcome: tuple[dict, list], made: dict[str, tuple], places: int) -> None:
    found, rejected = outcome
    assert found == {key: made[key] for key in found}
    missed = len(made) - len(found)
    assert not missed or rejected
    assert missed <= 4 * places, "damage costs what is around it, no more"


# A source that changes or fails


def test_a_shard_that_is_replaced_between_listing_and_reading_is_not_read(store):
    source = open_shard(store, *pair("a"))
    [unit] = source.units()
    store.put("s.tar", pairs("b", "c"))
    with pytest.raises(SourceChangedError, match=r"s\.tar changed"):
        list(source.read(unit))


def test_a_store_that_fails_is_no_damage(bucket, monkeypatch):
    """A retry mends it; rejecting the samples would lose them."""
    source = open_shard(bucket, *pair("a"))
    [unit] = source.units()

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "the network is gone")

    monkeypatch.setattr("s3fs.core.S3File._fetch_range", fail)
    with pytest.raises(SourceError, match=r"s\.tar: OSError.*the network is gone"):
        list(source.read(unit))
    with pytest.raises(SourceError):
        open_shards(bucket.root)


def test_a_connection_that_fails_is_no_damage(local, monkeypatch):
    """It has no errno, as damage has none."""
    source = open_shard(local, *pair("a"))

    def fail(*args):
        raise ConnectionError("reset")

    monkeypatch.setattr(webdataset, "headers", fail)
    with pytest.raises(ConnectionError):
        open_shards(local.root)
    with pytest.raises(ConnectionError):
        read(source)
