"""Folders that can't be listed, links, and what is no file: each is named, and nothing outside of a source is read."""

import os
import socket
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.errors import SourceChangedError
from pipelines.storage.files import Listing, list_files, open_unchanged, read_within
from pipelines.storage.local import UnreadableError, open_regular, real_folders
from pipelines.storage.walk import find
from vista_core import UsageError


def names(listing: Listing) -> list[str]:
    return [file.uri.removeprefix(f"{listing.root}/") for file in listing.files]


def errors(listing: Listing) -> dict[str, str]:
    return {Path(file.uri).name: file.error for file in listing.files if file.error}


def make_too_deep(folder: Path) -> Path:
    """Make folders below `folder` until the innermost has a path that no system call takes, not even root's."""
    handle, path = os.open(folder, os.O_RDONLY), folder
    while len(str(path)) < 4200:
        os.mkdir("d" * 200, dir_fd=handle)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle, path = inner, path / ("d" * 200)
    os.close(handle)
    return path


def test_a_folder_that_cannot_be_listed_is_named_and_the_others_are_listed(local):
    for name in ("a/1.bin", "b/2.bin", "c/3.bin"):
        local.put(name, b"x")
    make_too_deep(Path(local.uri("b")))
    for uri in (local.root, local.uri("**/*.bin"), local.uri("b/**")):
        [unlisted] = list_files(uri).unlisted
        assert unlisted.uri.startswith(local.uri("b/ddd"))
        assert "can't be listed: File name too long" in unlisted.error
    assert names(list_files(local.root)) == ["a/1.bin", "b/2.bin", "c/3.bin"]
    assert list_files(local.uri("*/*.bin")).unlisted == (), "no file so deep down could match"


@pytest.mark.skipif(os.geteuid() == 0, reason="root lists everything")
def test_a_folder_without_permission_is_named(local):
    local.put("a/1.bin", b"x")
    local.put("b/2.bin", b"x")
    Path(local.uri("b")).chmod(0)
    listing = list_files(local.root)
    Path(local.uri("b")).chmod(0o700)
    assert names(listing) == ["a/1.bin"]
    assert [(each.uri, each.error) for each in listing.unlisted] == [
        (
            local.uri("b"),
            "the folder can't be listed: Permission denied. Give the user that runs the job the right to read it",
        )
    ]


def test_a_source_of_which_nothing_could_be_listed_says_so(tmp_path):
    make_too_deep(tmp_path)
    with pytest.raises(UsageError, match="can't be listed: File name too long"):
        list_files(str(tmp_path))


@pytest.mark.parametrize("pattern", ["*/*.bin", "**/*.bin", "*.bin", ""])
def test_a_store_that_fails_while_it_is_listed_ends_the_run(faulty_bucket, pattern):
    faulty_bucket.put("a/1.bin", b"x")
    faulty_bucket.proxy.fail("403", "GET")
    with pytest.raises(UsageError, match=r"cannot be listed: .*AWS_ACCESS_KEY_ID"):
        list_files(faulty_bucket.uri(pattern) if pattern else faulty_bucket.root)


PARTS = st.sampled_from(["a", "b", "ab", "c.x", "[a]"])
PATTERNS = st.lists(st.sampled_from(["*", "a*", "?", "**", "[ab]", "a", "*.x", "b"]), min_size=1, max_size=4)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=8), PATTERNS.map("/".join))
def test_a_glob_finds_what_fsspec_finds(tmp_path_factory, paths, pattern):
    root = tmp_path_factory.mktemp("glob")
    for path in paths:
        file = root / "top" / path
        if not any(parent.is_file() for parent in file.parents) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    fs = fsspec.filesystem("file")
    expected = {name for name, info in fs.glob(f"{root}/top/{pattern}", detail=True).items() if info["type"] == "file"}
    if expected:
        found = find(fs, f"{root}/top/{pattern}", (str(root),))
        assert {name for name, info in found.files.items() if info["type"] == "file"} == expected


# Links


@pytest.fixture
def source(local) -> Path:
    """A folder beside which there is a secret."""
    local.put("secret/key.bin", b"secret")
    local.put("source/a.bin", b"a")
    return Path(local.uri("source"))


def test_links_that_lead_out_or_nowhere_and_what_is_no_file_are_listed_with_the_cause(local, source):
    (source / "inside.bin").symlink_to("a.bin")
    (source / "outside.bin").symlink_to("../secret/key.bin")
    (source / "broken.bin").symlink_to("nothing")
    (source / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(source / "pipe.bin")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket.bin"))
    listing = list_files(str(source))
    assert len(names(listing)) == 7
    secret = local.uri("secret")
    cure = f"if files may be read there, give --allow-prefix {secret}/"
    assert errors(listing) == {
        "outside.bin": f"it is a link to {secret}/key.bin, outside of the source; {cure}",
        "broken.bin": "it is a link that can't be followed: No such file or directory",
        "loop.bin": "it is a link that can't be followed: Too many levels of symbolic links",
        "pipe.bin": "it is no regular file",
        "socket.bin": "it is no regular file",
    }
    assert "outside.bin" not in errors(list_files(str(source), [secret]))
    for file in listing.files:
        if Path(file.uri).name in ("a.bin", "inside.bin"):
            assert read_within(file.uri, 10, listing.folders) == b"a"
        else:
            with pytest.raises(UnreadableError):
                read_within(file.uri, 10, listing.folders)


def test_a_link_to_a_folder_is_followed_where_it_may_lead_and_to_files_that_were_not_found_yet(local, source):
    (source / "sub").mkdir()
    (source / "sub/b.bin").write_bytes(b"b")
    (source / "again").symlink_to("sub")
    (source / "up").symlink_to(".")
    (source / "outside").symlink_to("../secret")
    listing = list_files(str(source))
    assert names(listing) == ["a.bin", "sub/b.bin"]
    [left_out] = listing.left_out
    assert left_out.startswith(f"{source}/outside: it is a link to {local.uri('secret')}, outside of the source")
    assert names(list_files(str(source), [local.uri("secret")])) == ["a.bin", "outside/key.bin", "sub/b.bin"]
    assert names(list_files(f"{source}/ag*/*.bin")) == ["again/b.bin"]
    # The parent of the source is allowed, too: its folders are found once.
    (source / "parent").symlink_to("..")
    assert names(list_files(str(source), [local.root])) == ["a.bin", "outside/key.bin", "sub/b.bin"]


@pytest.mark.parametrize("named", ["current", "current/*.bin", "current/a.bin"])
def test_the_source_itself_may_be_a_link(local, source, named):
    Path(local.uri("current")).symlink_to("source")
    (source / "inside.bin").symlink_to("a.bin")
    listing = list_files(local.uri(named))
    assert "a.bin" in names(listing) and errors(listing) == {}
    Path(local.uri("file.bin")).symlink_to("source/a.bin")
    assert errors(list_files(local.uri("file.bin"))) == {}


def test_a_file_that_becomes_a_link_after_it_was_listed_is_not_followed(local, source):
    folders = real_folders([str(source)])
    (source / "a.bin").unlink()
    (source / "a.bin").symlink_to("../secret/key.bin")
    with pytest.raises(UnreadableError, match="outside of the source"):
        open_regular(str(source / "a.bin"), folders)


def test_a_file_that_vanishes_is_a_change_and_a_pipe_that_takes_its_place_is_not_opened(local, source):
    [item] = list_files(str(source)).files
    (source / "a.bin").unlink()
    with pytest.raises(SourceChangedError, match="now gone"), open_unchanged(item.uri, item.version):
        pass
    os.mkfifo(source / "a.bin")
    with pytest.raises(UnreadableError, match="no regular file"), open_unchanged(item.uri, item.version):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_is_unreadable(source):
    [item] = list_files(str(source)).files
    (source / "a.bin").chmod(0)
    with pytest.raises(UnreadableError, match="Permission denied"), open_unchanged(item.uri, item.version):
        pass
