"""Damaged and cut-off tars: each sample is read whole or rejected, and only those near the damage are rejected."""

import dataclasses
import gzip
import io
import json
import re
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.image_cells import is_image_text
from pipelines.sources.images import file_text
from pipelines.sources.tabular import Tabular
from pipelines.storage.files import list_files
from tests.pipelines.sources.shards import (
    BLOCK,
    columns,
    member,
    open_shard,
    open_shards,
    pair,
    pairs,
    read,
    reasons,
    tar,
)
from vista_core import UsageError

# Kinds of damage


def replaced(source: Tabular, local, content: bytes, name: str = "s.tar") -> Tabular:
    """The source with another file in place of the one with which it was opened."""
    local.put(name, content)
    form = dataclasses.replace(source.format, listing=list_files(local.root))
    return dataclasses.replace(source, format=form)


def header_at(content: bytes, name: str) -> int:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmember(name).offset


def overwritten(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("c.jpg", ["b", "c", "d"]),  # c's text is left, but that might as well be another sample's
        ("c.txt", ["c", "d"]),
        ("a.jpg", ["a", "b"]),
        ("e.txt", ["e"]),
    ],
)
def test_a_damaged_header_rejects_the_samples_around_it(store, name, lost):
    good = pairs(*"abcde")
    source = open_shard(store, *(part for key in "abcde" for part in pair(key)))
    at = header_at(good, name)
    rows, rejected = read(replaced(source, store, overwritten(good, at + 124, b"8")))
    assert [row["id"] for row in rows] == [f"s/{key}" for key in "abcde" if key not in lost]
    assert all(row["text"] and row["image"] for row in rows)
    assert {reason for *_, reason, _ in rejected} == {"object_unreadable"}
    assert f"{store.uri('s.tar')}: the tar is damaged from byte {at:,} to byte " in rejected[0][-1]
    assert {key for _, _, key, _, _ in rejected if key} <= {f"s/{key}" for key in lost}


def test_damage_within_a_sample_rejects_only_that_one(local):
    shard = [part for key in "abc" for part in (*pair(key), (f"{key}.cls", b"1"), (f"{key}.json", b'{"n": 1}'))]
    source, good = open_shard(local, *shard), tar(*shard)
    rows, rejected = read(replaced(source, local, overwritten(good, header_at(good, "b.txt"), b"\xff")))
    assert [row["id"] for row in rows] == ["s/a", "s/c"]
    assert reasons(rejected) == [(None, "object_unreadable"), ("s/b", "object_unreadable")]


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("style", ["gnu", "pax"])
def test_a_name_is_not_trusted_without_its_extended_header(local, style, blocks):
    """The member's own header has a placeholder for the name, and the rest of its sample looks whole."""
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
def test_an_invalid_extended_header_is_damage(local, at, by):
    shard = [part for key in "abcdef" for part in pair(key * 120)]
    source, good = open_shard(local, *shard, style="pax"), tar(*shard, style="pax")
    place = header_at(good, "c" * 120 + ".jpg") + BLOCK
    rows, rejected = read(replaced(source, local, overwritten(good, place + at, by)))
    assert {"s/" + key * 120 for key in "aef"} <= {row["id"] for row in rows} < {"s/" + key * 120 for key in "abdef"}
    assert all(row["text"] and row["image"] for row in rows)
    assert rejected


def test_an_extended_header_without_its_member_is_damage(local):
    """The hole looks like the end of an archive, and the name is not that of the member after it."""
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


def test_a_possible_size_beyond_the_end_is_a_cut(store):
    source = open_shard(store, *pair("a"))
    video = member("c.mp4", 1 << 39).tobuf(tarfile.GNU_FORMAT)
    rows, rejected = read(replaced(source, store, pairs("a", "b")[: 8 * BLOCK] + video + bytes(BLOCK)))
    assert [row["id"] for row in rows] == ["s/a", "s/b"]
    assert "the tar is cut off, or its end was never written: no end mark" in rejected[0][-1]


@pytest.mark.parametrize("blocks", [1, 4, 8, 24])
def test_a_hole_is_not_taken_for_an_end(local, blocks):
    """With members of one block, a hole of whole members looks like the zeros between two archives."""
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
    """A file has one if its space was reserved but its download stopped."""
    source = open_shard(local, *pair("a"), *pair("b"))
    rows, rejected = read(replaced(source, local, pairs("a", "b")[: 8 * BLOCK] + bytes(30_000)))
    assert [row["id"] for row in rows] == ["s/a"]
    assert [(row, reason) for _, row, _, reason, _ in rejected] == [(1, "object_unreadable")]
    assert "cut off" in rejected[0][-1]


def test_wherever_a_tar_is_cut_off_the_samples_before_are_read(local):
    good = pairs(*"abc")
    source = open_shard(local, *(part for key in "abc" for part in pair(key)))
    for end in range(0, 15 * BLOCK, 64):
        rows, rejected = read(replaced(source, local, good[:end]))
        whole = 3 if end > 12 * BLOCK else max(0, (end - 1) // (4 * BLOCK))  # by the header after it
        assert [row["text"] for row in rows] in ([f"text of {key}" for key in "abc"][:n] for n in (whole - 1, whole))
        assert all(row["image"] for row in rows)
        if end <= 12 * BLOCK:
            assert [(row, reason) for _, row, _, reason, _ in rejected] == [(len(rows), "object_unreadable")]
            assert "cut off" in rejected[0][-1], end
        else:
            assert rejected == []
            assert len(rows) == 3


def test_samples_before_damage_in_gzip_are_read(local):
    keys = [f"{n:03}" for n in range(200)]
    good = gzip.compress(pairs(*keys), 0, mtime=0)
    source = open_shard(local, *pair("a"))
    cut, flipped = good[: len(good) // 2], overwritten(good, len(good) - 8, b"\0\0\0\0")
    for content, whole in ((cut, len(cut) // (4 * BLOCK)), (flipped, 200)):
        rows, rejected = read(replaced(source, local, content))
        assert whole - 1 <= len(rows) <= whole
        assert columns(rows, "text") == [(f"text of {key}",) for key in keys[: len(rows)]]
        assert [(row, reason) for _, row, _, reason, _ in rejected] == [(len(rows), "object_unreadable")]


@pytest.mark.parametrize("content", [b"", b"not a tar", b"PK\3\4" * 1000, bytes(1 << 20)])
def test_a_file_that_is_no_tar_is_one_reject(store, content):
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
            r"1\.tar: the tar is cut off, or its end .* no end mark, and from byte 0 on no header is valid",
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


# Damage anywhere


CONTENTS = st.binary(min_size=1, max_size=1300).map(lambda content: content.replace(b"\0", b"0"))


MADE = st.fixed_dictionaries(
    {},
    optional={
        "jpg": CONTENTS.filter(
            lambda content: not is_image_text(content)
        ),  # that would be decoded, see test_image_cells
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
    form = dataclasses.replace(source.format, listing=list_files(str(path)))
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
    assert missed <= 4 * places, "damage rejects only the samples around it"
