"""Listing a folder, a glob or one file, and opening exactly what was listed."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.errors import SourceChangedError, SourceError
from pipelines.storage.files import list_files, open_unchanged, read_start
from pipelines.storage.uris import absolute, listing_order, printable
from vista_core import UsageError

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
ODD_NAMES = ["a b.bin", "#1.bin", "100%.bin", "%20.bin", "ü日本.bin", "[1].bin", "a*?.bin", "x::y.bin", "q?v=1&w+2.bin"]


def listed(uri: str) -> list[str]:
    """The names of the files listed, relative to the listing's root."""
    listing = list_files(uri)
    return [item.uri.removeprefix(listing.root + "/") for item in listing.files]


def content(item) -> bytes:
    with open_unchanged(item.uri, item.version) as handle:
        return handle.read()


def test_a_folder_is_listed_with_its_subfolders_in_the_order_of_names(store):
    for name in ("day/b.bin", "day/a.bin", "day/sub/c.bin", "day-2/d.bin", "e.bin"):
        store.put(name, name.encode())
    assert listed(store.uri("day")) == listed(store.uri("day") + "/") == ["a.bin", "b.bin", "sub/c.bin"]
    assert [item.size for item in list_files(store.uri("day")).files] == [9, 9, 13]


def test_bookkeeping_of_spark_and_dot_files_are_not_listed(store):
    hidden = ("_SUCCESS", ".a.bin.crc", "_temporary/0/a.bin", "sub/.hidden.bin")
    for name in (*hidden, "a_b.bin", "sub/b.c.bin", "_DSC1.bin"):
        store.put(name, b"x")
    assert listed(store.root) == ["_DSC1.bin", "a_b.bin", "sub/b.c.bin"], "cameras use such names"
    assert listed(store.uri("_temporary")) == ["0/a.bin"], "a folder is listed if it is named"
    assert listed(store.uri("_SUCCESS")) == ["_SUCCESS"]


def test_names_of_all_kinds_are_listed_and_read(store):
    for name in ODD_NAMES:
        store.put(name, name.encode())
    listing = list_files(store.root)
    assert {item.uri.removeprefix(listing.root + "/"): content(item).decode() for item in listing.files} == {
        name: name for name in ODD_NAMES
    }
    for name in ODD_NAMES:
        assert name in listed(store.uri(name)), "listed alone, too"


def test_a_folder_whose_name_looks_like_a_glob(store):
    store.put("v[1]/a.bin", b"x")
    assert listed(store.uri("v[1]")) == ["a.bin"]


def test_a_glob_finds_what_matches_relative_to_its_fixed_part(store):
    for name in ("2024/a.bin", "2024/b.txt", "2025/c.bin", "2025/deep/d.bin"):
        store.put(name, b"x")
    assert listed(store.uri("*/*.bin")) == ["2024/a.bin", "2025/c.bin"]
    assert listed(store.uri("2025/**/*.bin")) == ["c.bin", "deep/d.bin"]
    assert listed(store.uri("202[4]/*")) == ["2024/a.bin", "2024/b.txt"]


def test_a_listing_is_never_cached(store):
    store.put("a.bin", b"x")
    assert listed(store.root) == ["a.bin"]
    store.put("b.bin", b"x")
    assert listed(store.root) == ["a.bin", "b.bin"]


def test_suffixes_are_chosen_in_either_case(local):
    for name in ("a.PARQUET", "b.pq", "c.txt"):
        local.put(name, b"x")
    kept = list_files(local.root).only({".parquet", ".pq"})
    assert [Path(item.uri).name for item in kept.files] == ["a.PARQUET", "b.pq"]


def test_a_link_is_read_as_its_target(local):
    """Datasets downloaded from the Hugging Face hub consist of links."""
    target = local.put("blobs/1", b"one")
    link = Path(local.uri("snapshot/a.bin"))
    link.parent.mkdir()
    link.symlink_to(target)
    [item] = list_files(str(link.parent)).files
    assert (item.uri, item.size, content(item)) == (str(link), 3, b"one")
    local.put("blobs/1", b"another")
    with pytest.raises(SourceChangedError):
        content(item)


@pytest.mark.parametrize("path", ["nothing/here", "nothing/*.bin", "*.txt"])
def test_the_message_names_a_uri_without_files(store, path):
    store.put("a.bin", b"x")
    with pytest.raises(UsageError) as refused:
        list_files(store.uri(path))
    assert f"--source {store.uri(path)}: nothing is there" in str(refused.value)


@pytest.mark.parametrize("path", ["catalog", "*.parquet", "a.parquet"])
def test_the_message_for_a_missing_bucket_names_the_variables_to_set(s3, path):
    refuse(f"s3://no-such-bucket/{path}", "bucket does not exist", AWS_VARIABLES)


@pytest.mark.parametrize("path", ["catalog", "*.parquet"])
@pytest.mark.parametrize(
    ("variable", "cause"),
    [
        ("AWS_SECRET_ACCESS_KEY", "signature"),
        ("AWS_ACCESS_KEY_ID", "access key"),
        (None, "Unable to locate credentials"),
    ],
)
def test_the_message_for_wrong_credentials_names_the_variables_to_set(
    bucket, monkeypatch, separate_clients, path, variable, cause
):
    if variable:
        monkeypatch.setenv(variable, "wrong")
    else:
        for name in AWS_VARIABLES[:2]:
            monkeypatch.delenv(name)
    refuse(bucket.uri(path), cause, AWS_VARIABLES)


def test_the_message_for_an_unreachable_server_names_the_variables_to_set(bucket, monkeypatch, separate_clients):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    refuse(bucket.uri("catalog"), "Could not connect", AWS_VARIABLES)


@pytest.mark.parametrize(("uri", "cause"), [("ftq://host/x", "ftq"), ("s3://", "s3"), ("gs://bucket/x", "gcsfs")])
def test_the_message_names_an_unknown_scheme_or_missing_driver(s3, uri, cause):
    refuse(uri, cause, [])


def refuse(uri: str, cause: str, named) -> None:
    """Listing `uri` fails within seconds, with a message that has the URI, the cause and the names in `named`."""
    began = time.monotonic()
    with pytest.raises(UsageError) as refused:
        list_files(uri)
    assert time.monotonic() - began < 20
    for part in (f"--source {uri}", cause, *named):
        assert part in str(refused.value)


def test_a_file_that_was_replaced_or_removed_after_listing_is_not_read(store):
    store.put("a.bin", b"one")
    [item] = list_files(store.root).files
    store.put("a.bin", b"another")
    with pytest.raises(SourceChangedError, match=r"a\.bin changed .* run the same command again"):
        content(item)
    store.remove("a.bin")
    with pytest.raises(SourceChangedError, match="now gone"):
        content(item)


def test_reading_stops_when_the_file_is_replaced(bucket):
    bucket.put("a.bin", b"one" * 1000)
    [item] = list_files(bucket.root).files
    with pytest.raises(SourceChangedError), open_unchanged(item.uri, item.version) as handle:
        assert handle.read(3) == b"one"
        bucket.put("a.bin", b"two" * 1000)
        handle.read(3)


def test_damage_in_a_file_that_changed_is_reported_as_a_change(local):
    local.put("a.bin", b"one")
    [item] = list_files(local.root).files
    with pytest.raises(SourceChangedError), open_unchanged(item.uri, item.version):
        local.put("a.bin", b"another")
        raise OSError("damaged")
    local.put("a.bin", b"one")
    [item] = list_files(local.root).files
    with pytest.raises(OSError, match="damaged"), open_unchanged(item.uri, item.version):
        raise OSError("damaged")


def test_a_new_modification_time_is_a_change(local):
    path = local.put("a.bin", b"one")
    [item] = list_files(local.root).files
    os.utime(path, (1, 1))
    with pytest.raises(SourceChangedError):
        content(item)


def test_local_paths_become_absolute_and_uris_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    here = str(Path.cwd())
    assert absolute("data/*.parquet") == f"{here}/data/*.parquet"
    assert absolute("file:///data/x") == "/data/x"
    assert absolute("~/x") == "/home/me/x"
    assert absolute("s3://bucket/x/") == "s3://bucket/x"


@given(st.binary(max_size=8))
def test_a_printable_uri_is_utf8_and_unchanged_if_it_was_already(name):
    text = printable(os.fsdecode(name))
    text.encode()
    try:
        assert text == name.decode()
    except UnicodeDecodeError:
        assert "\\x" in text


@pytest.mark.parametrize("size", [0, 1, 3, 7, 100])
def test_the_start_of_a_file_is_read(store, size):
    store.put("a.bin", b"content")
    store.put("empty.bin", b"")
    assert read_start(store.uri("a.bin"), size) == b"content"[:size]
    assert read_start(store.uri("empty.bin"), size) == b""


@pytest.mark.parametrize("kinds", [["READ"], ["HEAD", "GET", "READ"]], ids=["reads", "everything"])
def test_a_store_that_fails_while_a_file_is_read_ends_the_run_with_a_hint(faulty_bucket, kinds):
    faulty_bucket.put("a.bin", b"content")
    [item] = list_files(faulty_bucket.root).files
    faulty_bucket.proxy.fail("501", *kinds)
    with pytest.raises(SourceError, match=r"a\.bin: OSError: .*Check AWS_ACCESS_KEY_ID"):
        content(item)


# Listing order


def test_fragments_are_ordered_by_number_and_other_names_as_strings():
    names = ["b.lance#10", "b.lance#2", "a.lance#3", "a/10.bin", "a/2.bin", "a#x", "a#1.bin", "b.lance", "b.lance#0"]
    assert sorted(names, key=listing_order) == [
        "a#1.bin",
        "a#x",
        "a.lance#3",
        "a/10.bin",
        "a/2.bin",
        "b.lance",
        "b.lance#0",
        "b.lance#2",
        "b.lance#10",
    ]


@given(st.lists(st.text("ab#/01\n", max_size=6), unique=True))
def test_the_listing_order_of_different_names_is_never_equal(names):
    assert len({listing_order(name) for name in names}) == len(names)


def test_files_are_listed_in_listing_order(store):
    names = ["b#10", "b#2", "a10.bin", "a2.bin", "ü.bin", "Z.bin", "a/b.bin"]
    for name in names:
        store.put(name, b"x")
    files = list_files(store.root).files
    assert [item.uri for item in files] == sorted((item.uri for item in files), key=listing_order)
    assert listed(store.root) == ["Z.bin", "a/b.bin", "a10.bin", "a2.bin", "b#2", "b#10", "ü.bin"]
    assert list(list_files(store.root).by_name()) == [store.uri(name) for name in listed(store.root)]
