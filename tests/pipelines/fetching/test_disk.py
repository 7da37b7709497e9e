"""Images on disks."""

import os
from pathlib import Path

import pytest

from pipelines.reasons import Reject
from tests.pipelines.fetching.asking import fetched, identified, reasons, rules


def test_files_are_fetched_and_identified_by_size_and_time(local):
    uris = [local.put(name, name.encode()) for name in ("a.png", "sub/b c.png", "#1%.png")]
    given = rules(local.root)
    assert fetched(uris, given) == [b"a.png", b"sub/b c.png", b"#1%.png"]
    assert fetched(["sub/b c.png"], given, local.uri("day.parquet")) == [b"sub/b c.png"]
    assert fetched(["b c.png"], rules(local.root, root=local.uri("sub"))) == [b"sub/b c.png"]
    before = identified(uris, given)
    assert identified(uris, given) == before
    os.utime(uris[0], (1, 1))
    local.put("sub/b c.png", b"another size")
    assert [a == b for a, b in zip(before, identified(uris, given), strict=True)] == [False, False, True]


def test_files_that_cannot_be_fetched(local):
    local.put("images/large.png", bytes(1001))
    local.put("images/fits.png", bytes(1000))
    os.mkfifo(local.uri("images/fifo"))
    ends = {
        "large.png": "fetch_too_large",
        "fits.png": None,
        "fifo": "fetch_failed",
        "": "fetch_failed",
        "missing.png": "fetch_not_found",
        "fits.png/x.png": "fetch_not_found",
        "x" * 300: "fetch_failed",
    }
    uris = [local.uri(f"images/{name}") for name in ends]
    given = rules(local.uri("images"), max_bytes=1000)
    assert reasons(fetched(uris, given)) == reasons(identified(uris, given)) == list(ends.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_is_forbidden(local):
    uri = local.put("a.png", b"x")
    Path(uri).chmod(0)
    assert reasons(fetched([uri], rules(local.root))) == ["fetch_forbidden"]


def test_a_link_may_only_lead_below_an_allowed_prefix(local):
    local.put("images/a.png", b"image")
    local.put("secret/key", b"secret")
    images = Path(local.uri("images"))
    (images / "inside.png").symlink_to("a.png")
    (images / "outside.png").symlink_to(local.uri("secret/key"))
    (images / "folder").symlink_to(local.uri("secret"))
    (images / "loop").symlink_to("loop")
    uris = [str(images / name) for name in ("inside.png", "outside.png", "folder/key", "loop")]
    for ask in (fetched, identified):
        inside, outside, folder, loop = ask(uris, rules(str(images)))
        assert not isinstance(inside, Reject)
        assert reasons([outside, folder, loop]) == ["uri_not_allowed", "uri_not_allowed", "fetch_failed"]
        assert local.uri("secret/key") in outside.message
        assert f"give --allow-prefix {local.uri('secret')}/" in outside.message
    assert fetched(uris[:3], rules(str(images), local.uri("secret"))) == [b"image", b"secret", b"secret"]


def test_an_allowed_folder_may_itself_be_a_link(local):
    local.put("images/a.png", b"image")
    Path(local.uri("link")).symlink_to("images")
    assert fetched([local.uri("link/a.png")], rules(local.uri("link"))) == [b"image"]
