"""Images in object stores: a real S3 server, and one that is slow, broken and wrong."""

import importlib.util

import pytest

from pipelines.reasons import Reject
from pipelines.storage.errors import SourceError
from tests.images_over_http import ImageServer, serve_images
from tests.pipelines.fetching.asking import fetched, identified, reasons, rules
from tests.s3 import environment


def test_objects_are_fetched_and_identified_by_their_etag(bucket):
    names = ["a.png", "sub/b c.png", "#1.png", "100%.png", "q?v=1&w+2.png", "ü日.png", "x::y.png", "[1]*.png"]
    for name in names:
        bucket.put(name, name.encode())
    bucket.put("empty.png", b"")
    uris = [*(bucket.uri(name) for name in names), bucket.uri("empty.png")]
    given = rules(bucket.root)
    assert fetched(uris, given) == [*(name.encode() for name in names), b""]
    assert fetched([*names, "empty.png"], given, bucket.uri("day.parquet")) == fetched(uris, given)
    before = identified(uris, given)
    assert all(identity.startswith(f"{uri}\0") for uri, identity in zip(uris, before, strict=True))
    bucket.put("a.png", b"other")
    after = identified(uris, given)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False] + [True] * len(names)


def test_objects_that_cannot_be_fetched(bucket):
    bucket.put("large.png", bytes(1001))
    bucket.put("fits.png", bytes(1000))
    bucket.put("folder/a.png", b"x")
    uris = [bucket.uri(name) for name in ("large.png", "fits.png", "missing.png", "folder")]
    uris += ["s3://no-such-bucket/a.png", "s3://other/a.png"]
    given = rules(bucket.root, "s3://no-such-bucket", max_bytes=1000)
    ends = ["fetch_too_large", None, "fetch_not_found", "fetch_not_found", "fetch_not_found", "uri_not_allowed"]
    for results in (fetched(uris, given), identified(uris, given)):
        assert reasons(results) == ends
        assert all(
            uri in result.message for uri, result in zip(uris, results, strict=True) if result.__class__ is Reject
        )


@pytest.mark.parametrize(
    ("variable", "ask"),
    [("AWS_SECRET_ACCESS_KEY", fetched), ("AWS_ACCESS_KEY_ID", identified), (None, fetched), (None, identified)],
)
def test_credentials_that_do_not_work_end_the_run(bucket, monkeypatch, variable, ask):
    uri = bucket.put("a.png", b"x")
    if variable:
        monkeypatch.setenv(variable, "wrong")
    else:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SourceError, match=r"a\.png: .*Check AWS_ACCESS_KEY_ID"):
        ask([uri], rules(bucket.root))


@pytest.fixture
def bad_store(server, monkeypatch) -> ImageServer:
    """An S3 server whose buckets answer as the image server's folders do."""
    for name, value in environment(server.url).items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.parametrize("ask", [fetched, identified])
def test_credentials_that_have_expired_end_the_run_at_once(bad_store, ask):
    for uris in ([f"s3://expired/{n}.png" for n in range(300)], ["s3://expired/after.png"]):
        with pytest.raises(SourceError, match=r"s3://expired/.*has expired.*Check AWS_ACCESS_KEY_ID"):
            ask(uris, rules("s3://expired"))
    assert bad_store.total("GET") < 150, "the remaining images were not requested"


def test_a_store_that_fails_is_asked_three_times(bad_store):
    ends = {
        "good": None,
        "broken-once": None,
        "cut-once": None,
        "broken": "fetch_failed",
        "cut": "fetch_failed",
        "denied": "fetch_forbidden",
    }
    uris = [f"s3://{kind}/1.png" for kind in ends]
    assert dict(zip(ends, reasons(fetched(uris, rules(*uris))), strict=True)) == ends
    requests = {kind: bad_store.gets(f"/{kind}/1.png") for kind in ends}
    repeated = {"broken-once": 2, "cut-once": 2, "broken": 3, "cut": 3}
    assert requests == dict.fromkeys(ends, 1) | repeated, "neither s3fs nor botocore repeats requests of its own"


def test_a_request_to_a_slow_store_ends_in_time(bad_store):
    uris = ["s3://slow/1.png", "s3://drip/1.png"]
    assert reasons(fetched(uris, rules(*uris, seconds=0.5))) == ["fetch_timeout"] * 2
    assert all(bad_store.gets(uri.removeprefix("s3:/")) <= 3 for uri in uris)


@pytest.mark.parametrize("ask", [fetched, identified])
def test_a_store_that_cannot_be_reached_ends_the_run_after_a_few_images(monkeypatch, ask):
    with serve_images() as gone:
        for name, value in environment(gone.url).items():
            monkeypatch.setenv(name, value)
    uris = [f"s3://shop/{n}.png" for n in range(500)]
    given = rules("s3://shop", "s3://other", "/data", second_look_seconds=0.1)
    with pytest.raises(SourceError, match=r"s3://shop: it fails for every image, .*Check that the store is up"):
        ask(uris, given)


def test_where_a_store_refuses_head_the_content_is_the_identity(bad_store):
    image, denied = identified(["s3://signed/1.png", "s3://denied/1.png"], rules("s3://signed", "s3://denied"))
    assert image == bad_store.image("/signed/1.png")
    assert denied.reason == "fetch_forbidden"


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_the_message_for_a_missing_driver_says_how_to_install_it():
    with pytest.raises(SourceError, match="pip install gcsfs"):
        fetched(["gs://shop/a.png"], rules("gs://shop/"))
