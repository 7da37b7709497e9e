"""Images with the text files beside them become records."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.records import read_schema
from pipelines.sources import image_folder
from pipelines.sources.columns import Columns
from pipelines.sources.image_folder import ImageFolder
from pipelines.sources.kinds import open_source
from pipelines.sources.objects import Listing, SourceError, SourceObject
from vista_core import UsageError


def read(source) -> tuple[dict[str, dict], dict[str, tuple[str, str]]]:
    """The records that could be read by id, and the others' reasons and messages."""
    rows, reasons = {}, {}
    for unit in source.units():
        for table, rejects in source.read(json.loads(json.dumps(unit))):
            assert table.schema == read_schema(source.extra)
            assert len(table) == unit["rows"]
            for number, row in enumerate(table.to_pylist()):
                if number in rejects:
                    reasons[row["id"]] = (rejects[number].reason, rejects[number].message)
                else:
                    rows[row["id"]] = row
    return rows, reasons


def folder(store, **options):
    return open_source(store.root, Columns(**options))


def test_images_in_nested_folders_with_the_texts_beside_them(store):
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


def test_suffixes_count_in_either_case(store):
    store.put("a.JPG", b"1")
    store.put("a.TXT", b"upper")
    store.put("b.Jpeg", b"2")
    store.put("b.txt", b"lower")
    rows, _ = read(folder(store))
    assert {key: row["text"] for key, row in rows.items()} == {"a.JPG": "upper", "b.Jpeg": "lower"}


def test_two_images_with_one_stem_share_its_text_and_are_two_records(store):
    for name in ("a.jpg", "a.png", "a.txt"):
        store.put(name, name.encode())
    rows, _ = read(folder(store))
    assert {key: (row["text"], row["image"]) for key, row in rows.items()} == {
        "a.jpg": ("a.txt", b"a.jpg"),
        "a.png": ("a.txt", b"a.png"),
    }


def test_a_text_with_a_byte_order_mark_and_one_that_is_not_utf8(store):
    for name, text in (("bom", b"\xef\xbb\xbfKaffee"), ("latin", "Café".encode("latin-1")), ("good", "Café".encode())):
        store.put(f"{name}.jpg", b"1")
        store.put(f"{name}.txt", text)
    rows, reasons = read(folder(store))
    assert {key: row["text"] for key, row in rows.items()} == {"bom.jpg": "Kaffee", "good.jpg": "Café"}
    assert reasons["latin.jpg"][0] == "text_not_utf8"


@pytest.mark.parametrize("gone", ["b.jpg", "b.txt"])
def test_a_file_that_vanishes_after_listing_costs_its_own_record(store, gone):
    for name in ("a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg"):
        store.put(name, b"x")
    source = folder(store)
    store.remove(gone)
    rows, reasons = read(source)
    assert rows.keys() == {"a.jpg", "c.jpg"}
    reason, message = reasons["b.jpg"]
    assert reason == "object_unreadable"
    assert gone in message


def test_a_link_to_nothing_costs_its_own_record(local):
    local.put("a.jpg", b"x")
    Path(local.uri("b.jpg")).symlink_to("nothing")
    Path(local.uri("c.jpg")).symlink_to("a.jpg")
    rows, reasons = read(folder(local))
    assert rows.keys() == {"a.jpg", "c.jpg"}
    assert reasons["b.jpg"][0] == "object_unreadable"


def test_a_store_that_fails_costs_the_run_not_the_records(local, monkeypatch):
    local.put("a.jpg", b"x")
    source = folder(local)

    def fail(*args, **kwargs):
        raise TimeoutError("the store does not answer")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", fail)
    with pytest.raises(TimeoutError):
        read(source)


@pytest.mark.parametrize(
    "name", ["a b.jpg", "#1.jpg", "100%.jpg", "%20.jpg", "ü日本.jpg", "[1].jpg", "a*?.jpg", "x::y.jpg"]
)
def test_names_of_all_kinds(store, name):
    store.put(f"sub/{name}", b"image")
    store.put(f"sub/{name[:-4]}.txt", b"text")
    rows, reasons = read(folder(store))
    assert reasons == {}
    assert [(key, row["text"], row["image"]) for key, row in rows.items()] == [(f"sub/{name}", "text", b"image")]


def test_a_name_that_is_not_utf8_is_spelled_out(local):
    local.put("a.jpg", b"image")
    Path(local.uri("a.jpg")).rename(os.fsdecode(local.root.encode() + b"/caf\xe9.jpg"))
    rows, _ = read(folder(local))
    assert rows["caf\\xe9.jpg"]["image"] == b"image"
    assert rows["caf\\xe9.jpg"]["_object"] == local.uri("caf\\xe9.jpg")


def test_what_was_found_and_what_is_not_read_is_said(local):
    for name in ("a.jpg", "a.png", "a.txt", "b.gif", "c.txt", "d.txt", "e.heic", "README"):
        local.put(name, bytes(250_000))
    said = folder(local).describe()
    assert said[0] == "3 images, 0.8 MB, 2 with a text file"
    assert said[-1].endswith(": 1 .heic, 2 .txt, 1 without a suffix")
    for name in ("c.txt", "d.txt", "e.heic", "README"):
        local.remove(name)
    assert len(folder(local).describe()) == 2


def test_a_folder_has_no_columns_to_name(local):
    local.put("a.jpg", b"x")
    with pytest.raises(UsageError, match="folder of images: it has no column 'caption'"):
        folder(local, text="caption")


@given(st.lists(st.sampled_from([0, 1, 40, 120]), max_size=40))
@example([0] * 20)
@example([40] * 20)
def test_pages_hold_each_image_once_in_order_and_are_bounded(sizes):
    uris = [f"/data/{number:03}.jpg" for number in range(len(sizes))]
    objects = tuple(SourceObject(uri, size, "v") for uri, size in zip(uris, sizes, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "PAGE_FILES", 7)
        patch.setattr(image_folder, "PAGE_BYTES", 100)
        units = ImageFolder(Listing("/data", "/data", objects)).units()
    assert [uri for unit in units for uri in unit["images"]] == uris
    bytes_of = dict(zip(uris, sizes, strict=True))
    for unit in units:
        assert unit["rows"] == len(unit["images"]) == len(unit["texts"]) <= 7
        assert sum(bytes_of[uri] for uri in unit["images"]) <= 100 or unit["rows"] == 1
    for unit, following in pairwise(units):
        size = sum(bytes_of[uri] for uri in (*unit["images"], following["images"][0]))
        assert unit["rows"] == 7 or size > 100, "a page is filled before the next begins"


def test_a_credential_that_expires_ends_the_run_instead_of_rejecting_rows(bucket, monkeypatch):
    bucket.put("a.png", b"1")
    source = open_source(bucket.root, Columns())
    [unit] = source.units()

    class Expired:
        def cat_file(self, path):
            raise PermissionError("The provided token has expired.")

    monkeypatch.setattr(image_folder, "filesystem", lambda uri: (Expired(), uri))
    with pytest.raises(SourceError, match=r"a\.png: The provided token has expired.*AWS_"):
        list(source.read(unit))
