"""Listing a folder, a glob or one object, and opening just what was listed."""

import os
import time
from pathlib import Path

import pytest
import s3fs
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.objects import SourceChangedError, absolute, list_objects, open_unchanged, printable
from vista_core import UsageError

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
ODD_NAMES = ["a b.bin", "#1.bin", "100%.bin", "%20.bin", "ü日本.bin", "[1].bin", "a*?.bin", "x::y.bin", "q?v=1&w+2.bin"]


def listed(uri: str) -> list[str]:
    """The names of what is found, relative to the listing's root."""
    listing = list_objects(uri)
    return [item.uri.removeprefix(listing.root + "/") for item in listing.objects]


def content(item) -> bytes:
    with open_unchanged(item.uri, item.version) as handle:
        return handle.read()


@pytest.fixture
def clients_of_their_own():
    """Clients of this test see its environment, and later tests' clients theirs."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_folder_is_listed_by_name_with_all_that_is_under_it(store):
    for name in ("day/b.bin", "day/a.bin", "day/sub/c.bin", "day-2/d.bin", "e.bin"):
        store.put(name, name.encode())
    assert listed(store.uri("day")) == listed(store.uri("day") + "/") == ["a.bin", "b.bin", "sub/c.bin"]
    assert [item.size for item in list_objects(store.uri("day")).objects] == [9, 9, 13]


def test_the_files_of_spark_and_of_editors_are_not_data(store):
    hidden = ("_SUCCESS", ".a.bin.crc", "_temporary/0/a.bin", "sub/.hidden.bin")
    for name in (*hidden, "a_b.bin", "sub/b.c.bin", "_DSC1.bin"):
        store.put(name, b"x")
    assert listed(store.root) == ["_DSC1.bin", "a_b.bin", "sub/b.c.bin"], "cameras name so"
    assert listed(store.uri("_temporary")) == ["0/a.bin"], "what was asked for by name is not hidden"
    assert listed(store.uri("_SUCCESS")) == ["_SUCCESS"]


def test_names_of_all_kinds_are_listed_and_read(store):
    for name in ODD_NAMES:
        store.put(name, name.encode())
    listing = list_objects(store.root)
    assert {item.uri.removeprefix(listing.root + "/"): content(item).decode() for item in listing.objects} == {
        name: name for name in ODD_NAMES
    }
    for name in ODD_NAMES:
        assert name in listed(store.uri(name)), "the same, asked for alone"


def test_a_folder_whose_name_looks_like_a_glob(store):
    store.put("v[1]/a.bin", b"x")
    assert listed(store.uri("v[1]")) == ["a.bin"]


def test_a_glob_finds_what_matches_relative_to_its_fixed_part(store):
    for name in ("2024/a.bin", "2024/b.txt", "2025/c.bin", "2025/deep/d.bin"):
        store.put(name, b"x")
    assert listed(store.uri("*/*.bin")) == ["2024/a.bin", "2025/c.bin"]
    assert listed(store.uri("2025/**/*.bin")) == ["c.bin", "deep/d.bin"]
    assert listed(store.uri("202[4]/*")) == ["2024/a.bin", "2024/b.txt"]


def test_a_listing_is_of_today(store):
    store.put("a.bin", b"x")
    assert listed(store.root) == ["a.bin"]
    store.put("b.bin", b"x")
    assert listed(store.root) == ["a.bin", "b.bin"]


def test_suffixes_are_chosen_in_either_case(local):
    for name in ("a.PARQUET", "b.pq", "c.txt"):
        local.put(name, b"x")
    kept = list_objects(local.root).only({".parquet", ".pq"})
    assert [Path(item.uri).name for item in kept.objects] == ["a.PARQUET", "b.pq"]


def test_a_link_is_what_it_leads_to(local):
    """A dataset fetched from the Hugging Face hub consists of links."""
    target = local.put("blobs/1", b"one")
    link = Path(local.uri("snapshot/a.bin"))
    link.parent.mkdir()
    link.symlink_to(target)
    [item] = list_objects(str(link.parent)).objects
    assert (item.uri, item.size, content(item)) == (str(link), 3, b"one")
    local.put("blobs/1", b"another")
    with pytest.raises(SourceChangedError):
        content(item)


def test_a_link_to_nothing_is_listed_so_that_the_reader_can_reject_it(local):
    local.put("a.bin", b"x")
    Path(local.uri("b.bin")).symlink_to("nothing")
    _, dangling = list_objects(local.root).objects
    with pytest.raises(SourceChangedError, match=r"b\.bin changed .* now gone"):
        content(dangling)


@pytest.mark.parametrize("path", ["nothing/here", "nothing/*.bin", "*.txt"])
def test_nothing_found_is_said_with_the_uri(store, path):
    store.put("a.bin", b"x")
    with pytest.raises(UsageError) as refused:
        list_objects(store.uri(path))
    assert f"--source {store.uri(path)}: nothing is there" in str(refused.value)


@pytest.mark.parametrize("path", ["catalog", "*.parquet", "a.parquet"])
def test_a_bucket_that_does_not_exist_is_said_with_what_to_set(s3, path):
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
def test_credentials_that_do_not_work_are_said_with_what_to_set(
    bucket, monkeypatch, clients_of_their_own, path, variable, cause
):
    if variable:
        monkeypatch.setenv(variable, "wrong")
    else:
        for name in AWS_VARIABLES[:2]:
            monkeypatch.delenv(name)
    refuse(bucket.uri(path), cause, AWS_VARIABLES)


def test_a_server_that_does_not_answer_is_said_with_what_to_set(bucket, monkeypatch, clients_of_their_own):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    refuse(bucket.uri("catalog"), "Could not connect", AWS_VARIABLES)


@pytest.mark.parametrize(("uri", "cause"), [("ftq://host/x", "ftq"), ("s3://", "s3"), ("gs://bucket/x", "gcsfs")])
def test_a_place_that_cannot_be_reached_from_here_is_named(s3, uri, cause):
    refuse(uri, cause, [])


def refuse(uri: str, cause: str, named) -> None:
    """Listing `uri` fails within seconds, and the message has the URI, the cause and what is `named`."""
    began = time.monotonic()
    with pytest.raises(UsageError) as refused:
        list_objects(uri)
    assert time.monotonic() - began < 20
    for part in (f"--source {uri}", cause, *named):
        assert part in str(refused.value)


def test_an_object_that_was_replaced_or_removed_since_it_was_listed_is_not_read(store):
    store.put("a.bin", b"one")
    [item] = list_objects(store.root).objects
    store.put("a.bin", b"another")
    with pytest.raises(SourceChangedError, match=r"a\.bin changed .* run the same command again"):
        content(item)
    store.remove("a.bin")
    with pytest.raises(SourceChangedError, match="now gone"):
        content(item)


def test_an_object_that_is_replaced_while_it_is_read_is_not_read_further(bucket):
    bucket.put("a.bin", b"one" * 1000)
    [item] = list_objects(bucket.root).objects
    with pytest.raises(SourceChangedError), open_unchanged(item.uri, item.version) as handle:
        assert handle.read(3) == b"one"
        bucket.put("a.bin", b"two" * 1000)
        handle.read(3)


def test_what_looks_like_damage_in_a_file_that_changed_is_a_change(local):
    local.put("a.bin", b"one")
    [item] = list_objects(local.root).objects
    with pytest.raises(SourceChangedError), open_unchanged(item.uri, item.version):
        local.put("a.bin", b"another")
        raise OSError("damaged")
    local.put("a.bin", b"one")
    [item] = list_objects(local.root).objects
    with pytest.raises(OSError, match="damaged"), open_unchanged(item.uri, item.version):
        raise OSError("damaged")


def test_a_change_of_time_alone_is_a_change(local):
    path = local.put("a.bin", b"one")
    [item] = list_objects(local.root).objects
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
def test_a_printable_uri_is_utf8_and_unchanged_where_it_was(name):
    text = printable(os.fsdecode(name))
    text.encode()
    try:
        assert text == name.decode()
    except UnicodeDecodeError:
        assert "\\x" in text
