"""Images on web servers that are good, slow, broken, hostile, or not there."""

import functools
import gzip
import socket
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from pipelines.fetching.web import retry_after
from pipelines.reasons import Reject
from tests.images_over_http import METADATA_SERVICE, serve_images
from tests.pipelines.fetching.asking import fetched, identified, reasons, rules

CERTIFICATE = Path(__file__).with_name("certificate.pem")
ENDS = {
    "good": None,
    "bare": None,
    "signed": None,
    "wordy": None,
    "zipped": None,
    "deflated": None,
    "inside": None,
    "inside-endless": None,
    "cut-once": None,
    "broken-once": None,
    "busy-once": None,
    "slow": "fetch_timeout",
    "drip": "fetch_timeout",
    "drip-headers": "fetch_timeout",
    "cut": "fetch_failed",
    "cut-chunked": "fetch_failed",
    "broken": "fetch_failed",
    "loop": "fetch_failed",
    "none": "fetch_failed",
    "missing": "fetch_not_found",
    "locked": "fetch_forbidden",
    "large": "fetch_too_large",
    "endless": "fetch_too_large",
    "bomb": "fetch_too_large",
    "outside": "uri_not_allowed",
    "to-file": "uri_not_allowed",
    "to-user": "uri_invalid",
    "to-nonsense": "uri_invalid",
    "to-bytes": "uri_invalid",
}


@functools.cache
def bomb() -> bytes:
    """32 MB of zeros in 32 kB of gzip."""
    return gzip.compress(bytes(32 << 20))


def test_each_image_arrives_or_says_why_not(server):
    """Too few of them are slow for the host to count as down."""
    server.bomb = bomb()
    uris = [f"{server.url}/{kind}/1.png" for kind in ENDS]
    results = dict(zip(ENDS, fetched(uris, rules(server.url, "/etc", seconds=1.0)), strict=True))
    assert dict(zip(ENDS, reasons(results.values()), strict=True)) == ENDS
    for kind, result in results.items():
        if isinstance(result, Reject):
            assert result.stage == "fetch"
            assert result.message.startswith(f"{server.url}/{kind}/1.png: ")
        else:
            assert result == server.image(f"/{'good' if kind.startswith('inside') else kind}/1.png")
    assert METADATA_SERVICE in results["outside"].message
    assert server.total("HEAD") == 0


def test_only_failures_that_may_pass_are_tried_again(server):
    server.bomb = bomb()
    kinds = [kind for kind, reason in ENDS.items() if reason != "fetch_timeout" and not kind.startswith("inside")]
    fetched([f"{server.url}/{kind}/1.png" for kind in kinds], rules(server.url, "/etc"))
    repeated = {"cut-once": 2, "broken-once": 2, "busy-once": 2, "cut": 3, "cut-chunked": 3, "broken": 3, "loop": 6}
    assert {kind: server.gets(f"/{kind}/1.png") for kind in kinds} == dict.fromkeys(kinds, 1) | repeated


def test_the_time_limit_holds_while_bytes_keep_arriving(server):
    given = rules(server.url, seconds=0.3, max_bytes=1 << 40, attempts=1)
    began = time.monotonic()
    assert reasons(fetched([f"{server.url}/endless/1.png"], given)) == ["fetch_timeout"]
    assert 0.3 <= time.monotonic() - began < 5


def test_the_time_limit_is_for_all_redirects_together(server):
    """Each of six answers takes 0.2 s."""
    server.on_request = lambda: time.sleep(0.2)
    given = rules(server.url, seconds=0.5, attempts=1)
    assert reasons(fetched([f"{server.url}/loop/1.png"], given)) == ["fetch_timeout"]
    assert server.total("GET") <= 4


def test_a_connection_has_a_shorter_time_limit():
    """The server accepts the connection, but not the TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        results = fetched([f"{url}/1.png"], rules(url, seconds=60.0, attempts=1, connect_seconds=0.3))
    assert reasons(results) == ["fetch_timeout"]
    assert time.monotonic() - began < 10


def test_a_compressed_image_takes_no_more_memory_than_allowed(server):
    server.bomb = bomb()
    tracemalloc.start()
    try:
        results = fetched([f"{server.url}/bomb/1.png"], rules(server.url, max_bytes=1_000_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reasons(results) == ["fetch_too_large"]
    assert peak < 6_000_000, "far less than the 32 MB that it would be"


def test_the_version_is_asked_for_and_where_there_is_none_the_content_is_the_identity(server):
    kinds = ["good", "dated", "inside", "endless", "bare", "no-head", "signed", "large", "missing", "locked", "outside"]
    uris = [f"{server.url}/{kind}/1.png" for kind in kinds]
    results = dict(zip(kinds, identified(uris, rules(server.url)), strict=True))
    versions = {kind: str(results[kind]).partition("\0") for kind in kinds[:4] + kinds[5:7]}
    assert all(version for _, _, version in versions.values())
    assert [uri for uri, _, _ in versions.values()] == [f"{server.url}/{kind}/1.png" for kind in versions]
    assert versions["dated"][2] == f"{len(server.image('/dated/1.png'))}-Mon, 01 Jan 2024 00:00:00 GMT"
    assert versions["good"][2] == versions["inside"][2]
    assert results["bare"] == server.image("/bare/1.png")
    assert reasons(results[kind] for kind in ("large", "missing", "locked", "outside")) == [
        "fetch_too_large",
        "fetch_not_found",
        "fetch_forbidden",
        "uri_not_allowed",
    ]


@pytest.mark.parametrize("kind", ["part", "whole", "dated"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 410, 429, 500, 501, 503])
def test_where_head_fails_the_version_is_asked_by_get_and_is_the_same(server, status, kind):
    with_head, by_get = f"/head/200/{kind}/1.png", f"/head/{status}/{kind}/1.png"
    server.image = lambda _: b"an image" * 100
    [before] = identified([server.url + with_head], rules(server.url))
    [result] = identified([server.url + by_get], rules(server.url, attempts=1))
    assert result.partition("\0")[2] == before.partition("\0")[2].replace("0-", "800-", int(kind != "part"))
    assert server.headers[by_get]["Range"] == "bytes=0-0"
    assert server.asked[("HEAD", by_get)] == server.asked[("GET", by_get)] == 1


def test_a_host_whose_head_fails_is_asked_by_get_at_once_from_then_on(server):
    given = rules(server.url)
    for n in range(3):
        assert reasons(identified([f"{server.url}/head/404/part/{n}.png"], given)) == [None]
    assert (server.total("HEAD"), server.total("GET")) == (1, 3)


def test_an_image_that_is_missing_for_get_too_is_not_found(server):
    given = rules(server.url)
    uris = [f"{server.url}/head/{status}/missing/{status}.png" for status in (404, 405, 500)]
    assert reasons(identified(uris, given)) == ["fetch_not_found"] * 3
    assert reasons(identified([f"{server.url}/good/1.png"], given)) == [None]
    assert server.asked[("HEAD", "/good/1.png")] == 1, "that says nothing about HEAD"


def test_a_connection_that_ends_at_head_is_like_a_refusal(server):
    [result] = identified([f"{server.url}/cut-off-head/1.png"], rules(server.url))
    assert result.startswith(f"{server.url}/cut-off-head/1.png\0")


def test_where_no_part_is_given_the_content_is_the_identity(server):
    path = "/head/405/no-part/1.png"
    assert identified([server.url + path], rules(server.url)) == [server.image(path)]


def test_a_version_is_asked_for_without_reading_a_large_image(server):
    server.large = 50 << 20
    server.image = lambda _: bytes(server.large)
    [result] = identified([f"{server.url}/head/405/whole/1.png"], rules(server.url, max_bytes=100 << 20))
    assert isinstance(result, str)
    [result] = identified([f"{server.url}/head/405/dated/1.png"], rules(server.url))
    assert result.reason == "fetch_too_large"


def test_an_identity_changes_when_the_image_does(server):
    uris = [f"{server.url}/good/{n}.png" for n in range(3)]
    before = identified(uris, rules(server.url))
    assert identified(uris, rules(server.url)) == before
    assert len(set(before)) == 3
    server.edition = 2
    assert not set(before) & set(identified(uris, rules(server.url)))


@pytest.mark.parametrize("ask", [fetched, identified])
def test_an_answer_with_an_impossible_length_costs_only_its_own_image(server, ask):
    long, good = ask([f"{server.url}/long/1.png", f"{server.url}/good/1.png"], rules(server.url))
    assert long.reason == "fetch_failed"
    assert not isinstance(good, Reject)


def test_requests_have_a_name_ask_for_uncompressed_bytes_and_send_no_cookies(server):
    for n in (1, 2):
        fetched([f"{server.url}/cookie/{n}.png"], rules(server.url))
    headers = server.headers["/cookie/2.png"]
    assert headers["User-Agent"].startswith("vista/")
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("a b.png", "a%20b.png"),
        ("ü日.png", "%C3%BC%E6%97%A5.png"),
        ("100%.png", "100%25.png"),
        ("a%20b%.png", "a%20b%25.png"),
        ("a%2Fb%41%c3%bc.png", "a%2Fb%41%c3%bc.png"),
        ("a//b.png", "a//b.png"),
        ("././a/./b.png", "a/b.png"),
        (".a./b..c/.png", ".a./b..c/.png"),
        ("[1]<2>{3}|\"'.png", "%5B1%5D%3C2%3E%7B3%7D%7C%22'.png"),
        ("a;v=1,2:@!$&'()*+~-_.png", "a;v=1,2:@!$&'()*+~-_.png"),
        ("a.png?w=3 0&x=[é]/?%&y=%26+#top", "a.png?w=3%200&x=%5B%C3%A9%5D/?%25&y=%26+"),
    ],
)
def test_a_uri_is_requested_as_it_is_written_with_escapes_only_where_they_are_needed(server, written, sent):
    assert reasons(fetched([f"{server.url}/good/{written}"], rules(f"{server.url}/good"))) == [None]
    assert server.asked == {("GET", f"/good/{sent}"): 1}


def test_a_redirect_may_have_a_location_in_utf8(server):
    assert fetched([f"{server.url}/to-utf8/1.png"], rules(server.url)) == [server.image("/good/%C3%BC%20%E6%97%A5.png")]


def test_a_redirect_to_a_signed_url_is_told_without_its_signature(server):
    [result] = fetched([f"{server.url}/to-signed/1.png?token=s3cr3t"], rules(server.url))
    assert result.reason == "uri_not_allowed"
    assert "it is redirected to https://cdn.example.com/1.png?w=***&Signature=***: it is not below" in result.message
    assert "s3cr3t" not in result.message


def test_a_server_that_is_not_there_costs_only_its_own_images(server):
    with serve_images() as other:
        gone = other.url
    results = fetched([f"{gone}/good/1.png", f"{server.url}/good/1.png"], rules(gone, server.url))
    assert reasons(results) == ["fetch_failed", None]
    assert "ConnectionRefusedError" in results[0].message


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.com"])
def test_a_name_that_cannot_be_a_host_costs_only_its_own_images(server, host):
    results = fetched([f"http://{host}/1.png", f"{server.url}/good/1.png"], rules(f"http://{host}", server.url))
    assert reasons(results) == ["fetch_failed", None]


def test_the_certificate_of_a_server_must_be_trusted(monkeypatch):
    with serve_images(CERTIFICATE) as secure:
        uri = f"{secure.url}/good/1.png"
        [refused] = fetched([uri], rules(secure.url))
        assert refused.reason == "fetch_failed"
        assert "CERTIFICATE_VERIFY_FAILED" in refused.message
        assert secure.total("GET") == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert fetched([uri], rules(secure.url, attempts=2)) == [secure.image("/good/1.png")]


def test_the_certificate_of_a_server_must_be_for_its_name(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serve_images(CERTIFICATE) as secure:
        other_name = secure.url.replace("127.0.0.1", "localhost")
        [refused] = fetched([f"{other_name}/good/1.png"], rules(other_name))
        assert refused.reason == "fetch_failed"
        assert "localhost" in refused.message and "certificate is not valid for" in refused.message


def test_the_proxy_of_the_environment_is_used(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    uris = ["http://img.example.com/good/a%20b.png", f"{server.url}/good/1.png"]
    assert reasons(fetched(uris, rules("http://img.example.com", server.url))) == ["fetch_not_found", None]
    assert server.asked == {("GET", "http://img.example.com/good/a%20b.png"): 1, ("GET", "/good/1.png"): 1}


def test_a_retry_after_header_has_seconds_or_a_date():
    assert [retry_after(header) for header in ("", "0", "120", "soon", "-1", "9" * 5000)] == [0, 0, 120, 0, 0, 0]
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after(date) <= 60
