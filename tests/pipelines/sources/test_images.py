"""Images with the text files beside them become records."""

import os
import pickle
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.records import read_schema
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.sources.images import ImageFolder
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.storage.errors import SourceError
from pipelines.storage.files import Listing, SourceFile
from vista_core import UsageError
from vista_core.image_limits import SUFFIXES


def read(source) -> tuple[dict[str, dict], dict[str, tuple[str, str]]]:
    """By id, the records that could be read, and the reasons and messages of the others."""
    rows, reasons = {}, {}
    for unit in source.units():
        for table, rejects in source.read(pickle.loads(pickle.dumps(unit))):
            assert table.schema == read_schema(source.extra)
            assert len(table) == unit.rows
            for number, row in enumerate(table.to_pylist()):
                if number in rejects:
                    reasons[row["id"]] = (rejects[number].reason, rejects[number].message)
                else:
                    rows[row["id"]] = row
    return rows, reasons


def folder(store, **options):
    return open_source(store.root, Columns(**options))


def test_images_in_nested_folders_are_read_with_the_texts_beside_them(store):
    store.put("a.jpg", b"A")
    store.put("shoes/red/b.png", b"B")
    store.put("shoes/red/b.txt", b" ein roter Schuh \n")
    store.put("shoes/empty.webp", b"C")
    store.put("shoes/empty.txt", b" \n")
    source = folder(store)
    rows, reasons = read(source)
    assert reasons == {}
    assert (source.has_ids, source.has_uris, source.extra.names) == (True, True, [])
    assert {key: (row["text"], row["image"]) for key, row in rows.items()} == {
        "a.jpg": (None, b"A"),
        "shoes/red/b.png": (" ein roter Schuh ", b"B"),
        "shoes/empty.webp": (None, b"C"),
    }
    for key, row in rows.items():
        assert (row["image_uri"], row["_object"], row["_row"]) == (store.uri(key), store.uri(key), 0)


def test_ids_are_relative_to_the_folder_or_to_the_fixed_part_of_a_glob(store):
    store.put("v1/a/x.jpg", b"1")
    store.put("v1/b/x.jpg", b"2")
    assert read(open_source(store.uri("v1"), Columns()))[0].keys() == {"a/x.jpg", "b/x.jpg"}
    assert read(open_source(store.uri("v1/*/x.jpg"), Columns()))[0].keys() == {"a/x.jpg", "b/x.jpg"}
    assert read(open_source(store.uri("v1/b/x.jpg"), Columns()))[0].keys() == {"x.jpg"}


def test_suffixes_may_be_in_upper_case(store):
    store.put("a.JPG", b"1")
    store.put("a.TXT", b"upper")
    store.put("b.Jpeg", b"2")
    store.put("b.txt", b"lower")
    rows, _ = read(folder(store))
    assert {key: row["text"] for key, row in rows.items()} == {"a.JPG": "upper", "b.Jpeg": "lower"}


def test_two_images_with_the_same_name_share_a_text_and_are_two_records(store):
    for name in ("a.jpg", "a.png", "a.txt"):
        store.put(name, name.encode())
    rows, _ = read(folder(store))
    assert {key: (row["text"], row["image"]) for key, row in rows.items()} == {
        "a.jpg": ("a.txt", b"a.jpg"),
        "a.png": ("a.txt", b"a.png"),
    }


def test_a_text_may_have_a_byte_order_mark_but_must_be_utf8(store):
    for name, text in (("bom", b"\xef\xbb\xbfKaffee"), ("latin", "Café".encode("latin-1")), ("good", "Café".encode())):
        store.put(f"{name}.jpg", b"1")
        store.put(f"{name}.txt", text)
    rows, reasons = read(folder(store))
    assert {key: row["text"] for key, row in rows.items()} == {"bom.jpg": "Kaffee", "good.jpg": "Café"}
    assert reasons["latin.jpg"][0] == "text_not_utf8"


@pytest.mark.parametrize("text", ["", " \n", "\u00a0\u2003\n", "\u200b \u200b", "\ufeff\ufeff", "\u2060\t"])
def test_a_blank_text_is_no_text(local, text):
    local.put("a.jpg", b"1")
    local.put("a.txt", text.encode())
    local.put("b.jpg", b"1")
    local.put("b.txt", f"{text}x{text}".encode())
    rows, _ = read(folder(local))
    assert rows["a.jpg"]["text"] is None
    assert rows["b.jpg"]["text"].strip("\u200b\ufeff\u2060 \u00a0\u2003\t\n") == "x"


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_ending_of_images_is_read(local, suffix):
    local.put(f"a{suffix}", b"i")
    local.put(f"b{suffix.upper()}", b"j")
    assert read(folder(local))[0].keys() == {f"a{suffix}", f"b{suffix.upper()}"}


@pytest.mark.parametrize("gone", ["b.jpg", "b.txt"])
def test_a_file_that_vanishes_after_listing_rejects_its_own_record(store, gone):
    for name in ("a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg"):
        store.put(name, b"x")
    source = folder(store)
    store.remove(gone)
    rows, reasons = read(source)
    assert rows.keys() == {"a.jpg", "c.jpg"}
    reason, message = reasons["b.jpg"]
    assert reason == "object_unreadable"
    assert gone in message


def test_a_dangling_link_rejects_its_own_record(local):
    local.put("a.jpg", b"x")
    Path(local.uri("b.jpg")).symlink_to("nothing")
    Path(local.uri("c.jpg")).symlink_to("a.jpg")
    rows, reasons = read(folder(local))
    assert rows.keys() == {"a.jpg", "c.jpg"}
    assert reasons["b.jpg"][0] == "object_unreadable"


def test_a_failing_store_ends_the_run_instead_of_rejecting_records(faulty):
    faulty.put("a.jpg", b"x")
    source = folder(faulty)
    faulty.fail(TimeoutError("the store does not answer"))
    with pytest.raises(TimeoutError):
        read(source)


@pytest.mark.parametrize(
    "name", ["a b.jpg", "#1.jpg", "100%.jpg", "%20.jpg", "ü日本.jpg", "[1].jpg", "a*?.jpg", "x::y.jpg"]
)
def test_names_with_special_characters_are_read(store, name):
    store.put(f"sub/{name}", b"image")
    store.put(f"sub/{name[:-4]}.txt", b"text")
    rows, reasons = read(folder(store))
    assert reasons == {}
    assert [(key, row["text"], row["image"]) for key, row in rows.items()] == [(f"sub/{name}", "text", b"image")]


def test_bytes_of_a_name_that_are_not_utf8_become_escapes(local):
    local.put("a.jpg", b"image")
    Path(local.uri("a.jpg")).rename(os.fsdecode(local.root.encode() + b"/caf\xe9.jpg"))
    rows, _ = read(folder(local))
    assert rows["caf\\xe9.jpg"]["image"] == b"image"
    assert rows["caf\\xe9.jpg"]["_object"] == local.uri("caf\\xe9.jpg")


def test_the_description_says_what_was_found_and_what_is_skipped(local):
    for name in ("a.jpg", "a.png", "a.txt", "b.gif", "c.txt", "d.txt", "e.heic", "README"):
        local.put(name, bytes(250_000))
    said = folder(local).describe()
    assert said[0] == "3 images, 0.8 MB, 2 with a text file"
    assert said[-2].startswith("NOT READ, images in other formats: 1 .heic (convert them; the formats read are JPEG")
    assert said[-1].endswith(": 2 .txt, 1 without a suffix")
    for name in ("c.txt", "d.txt", "e.heic", "README"):
        local.remove(name)
    assert len(folder(local).describe()) == 2


def test_naming_a_column_of_a_folder_is_a_usage_error(local):
    local.put("a.jpg", b"x")
    with pytest.raises(UsageError, match="folder of images: it has no column 'caption'"):
        folder(local, text=("caption",))


@given(st.lists(st.sampled_from([0, 1, 40, 120]), max_size=40))
@example([0] * 20)
@example([40] * 20)
def test_pages_hold_each_image_once_in_order_and_are_bounded(sizes):
    uris = [f"/data/{number:03}.jpg" for number in range(len(sizes))]
    objects = tuple(SourceFile(uri, size, "v") for uri, size in zip(uris, sizes, strict=True))
    units = ImageFolder(Listing("/data", "/data", objects), Limits(page_files=7, page_bytes=100)).units()
    assert [uri for unit in units for uri in unit.uris] == uris
    bytes_of = dict(zip(uris, sizes, strict=True))
    for unit in units:
        assert unit.rows == len(unit.uris) == len(unit.texts) <= 7
        assert sum(bytes_of[uri] for uri in unit.uris) <= 100 or unit.rows == 1
    for unit, following in pairwise(units):
        size = sum(bytes_of[uri] for uri in (*unit.uris, following.uris[0]))
        assert unit.rows == 7 or size > 100, "a page is filled before the next begins"


@pytest.mark.parametrize("kind", ["HEAD", "READ"])
def test_an_expired_credential_ends_the_run_instead_of_rejecting_records(faulty_bucket, kind):
    faulty_bucket.put("a.png", b"1")
    source = folder(faulty_bucket)
    [unit] = source.units()
    faulty_bucket.proxy.fail("403", kind)
    with pytest.raises(SourceError, match=r"a\.png: Forbidden.*AWS_"):
        list(source.read(unit))


# Files that are too large


SMALL = Limits(image_bytes=1000, text_bytes=100)


@pytest.mark.parametrize(("size", "is_read"), [(0, True), (999, True), (1000, True), (1001, False), (50_000, False)])
def test_an_image_that_is_too_large_is_rejected(store, size, is_read):
    store.put("a.jpg", bytes(size))
    store.put("b.jpg", b"x")
    source = open_source(store.root, Columns(), limits=SMALL)
    rows, reasons = read(source)
    assert rows.keys() == ({"a.jpg", "b.jpg"} if is_read else {"b.jpg"})
    if is_read:
        assert rows["a.jpg"]["image"] == bytes(size)
    else:
        assert reasons["a.jpg"] == ("image_too_large", f"{store.uri('a.jpg')}: larger than 0.000953674 MiB")


@pytest.mark.parametrize(("size", "is_read"), [(0, True), (100, True), (101, False), (50_000, False)])
def test_a_text_that_is_too_large_rejects_its_image(store, size, is_read):
    store.put("a.jpg", b"x")
    store.put("a.txt", b"t" * size)
    store.put("b.jpg", b"x")
    rows, reasons = read(open_source(store.root, Columns(), limits=SMALL))
    assert rows.keys() == ({"a.jpg", "b.jpg"} if is_read else {"b.jpg"})
    if is_read:
        assert rows["a.jpg"]["text"] == ("t" * size or None)
    else:
        assert reasons["a.jpg"][0] == "text_too_large"
        assert store.uri("a.txt") in reasons["a.jpg"][1]


def test_the_stage_of_files_that_are_too_large_is_read(local):
    local.put("a.jpg", bytes(1001))
    local.put("b.jpg", b"x")
    local.put("b.txt", bytes(101))
    source = open_source(local.root, Columns(), limits=SMALL)
    found = [reject.stage for unit in source.units() for _, rejects in source.read(unit) for reject in rejects.values()]
    assert found == ["read", "read"]


def test_of_a_file_that_grew_after_it_was_listed_nothing_is_read(faulty):
    faulty.put("a.jpg", b"x")
    faulty.put("b.jpg", b"x")
    faulty.put("b.txt", b"x")
    source = open_source(faulty.root, Columns(), limits=SMALL)
    faulty.put("a.jpg", bytes(1_000_000))
    faulty.put("b.txt", bytes(1_000_000))
    faulty.reads.clear()
    _, reasons = read(source)
    assert {key: reason for key, (reason, _) in reasons.items()} == {
        "a.jpg": "image_too_large",
        "b.jpg": "text_too_large",
    }
    assert faulty.reads == [1], "the image whose text is too large"


def test_sparse_files_as_large_as_a_disk_are_rejected(local):
    """Reading one whole would need a terabyte of memory."""
    for name in ("a.jpg", "b.jpg", "b.txt", "c.jpg"):
        local.put(name, b"x")
    for name in ("a.jpg", "b.txt"):
        os.truncate(local.uri(name), 1 << 40)
    rows, reasons = read(folder(local))
    assert rows.keys() == {"c.jpg"}
    assert {key: reason for key, (reason, _) in reasons.items()} == {
        "a.jpg": "image_too_large",
        "b.jpg": "text_too_large",
    }
    assert "larger than 128 MiB" in reasons["a.jpg"][1]
    assert "larger than 16 MiB" in reasons["b.jpg"][1]


def test_texts_count_towards_the_size_of_a_page():
    files = [SourceFile(f"/data/{n}.{kind}", 40, "v") for n in range(4) for kind in ("jpg", "txt")]
    units = ImageFolder(Listing("/data", "/data", tuple(files)), Limits(page_bytes=160)).units()
    assert [len(unit.uris) for unit in units] == [2, 2]


def test_workers_are_sent_no_listing(local):
    for n in range(50):
        local.put(f"{n}.jpg", b"x")
    source = pickle.loads(pickle.dumps(folder(local).without_listing()))
    assert source.listing.files == ()
    assert source.limits == DEFAULTS
