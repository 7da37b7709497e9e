"""URIs are made absolute, parsed and compared with the allowed prefixes; nothing else can be fetched."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetching.locations import FetchLimits, Location, parse_location
from pipelines.fetching.web import request_url
from pipelines.reasons import Reject
from tests.pipelines.fetching.asking import FILE, located, reasons, rules
from vista_core import UsageError

WEB = ("https://img.example.com/shop/",)


def resolved(uri: str, *allowed: str, named_in: str = FILE, root=None) -> str | Reject:
    """The URI that would be fetched."""
    result = located(uri, rules(*allowed, root=root), named_in)
    return result.uri if isinstance(result, Location) else result


@pytest.mark.parametrize(
    ("uri", "named_in", "root", "absolute"),
    [
        ("a/b.jpg", "/data/catalog/day.parquet", None, "/data/catalog/a/b.jpg"),
        ("./a//b.jpg", "/data/catalog/day.parquet", None, "/data/catalog/a/b.jpg"),
        ("a.jpg", "/data/catalog/table.lance#3", None, "/data/catalog/a.jpg"),
        ("a.jpg", "s3://shop/cat/table.lance#3", None, "s3://shop/cat/a.jpg"),
        ("a #?%.jpg", "s3://shop/day.parquet", None, "s3://shop/a #?%.jpg"),
        ("a.jpg", "/data/day.parquet", "s3://shop/images/", "s3://shop/images/a.jpg"),
        ("a.jpg", "/data/day.parquet", "https://shop.com/img", "https://shop.com/img/a.jpg"),
        ("./a/./b.jpg", "s3://shop/day.parquet", None, "s3://shop/a/b.jpg"),
        ("C:/a.jpg", "/data/day.parquet", None, "/data/C:/a.jpg"),
        ("img\\sub\\a b.jpg", "/data/day.parquet", None, "/data/img/sub/a b.jpg"),
        (".\\img\\\\a.jpg", "s3://shop/day.parquet", None, "s3://shop/img/a.jpg"),
        ("/data/x.jpg", "s3://shop/day.parquet", "/elsewhere", "/data/x.jpg"),
        ("file:///data/x.jpg", "s3://shop/day.parquet", None, "/data/x.jpg"),
        ("file:///data/my%20photos/%C3%BC%2523.jpg", "/data/day.parquet", None, "/data/my photos/ü%23.jpg"),
        ("FILE://localhost/data/100%.jpg", "/data/day.parquet", None, "/data/100%.jpg"),
        ("file:/data/x.jpg", "/data/day.parquet", None, "/data/x.jpg"),
        ("//shop.com/a.jpg", "/data/day.parquet", None, "https://shop.com/a.jpg"),
        ("//SHOP.com:443/a.jpg?v=1", "s3://shop/day.parquet", "/data", "https://shop.com/a.jpg?v=1"),
        ("//plain.com/a.jpg", "/data/day.parquet", None, "http://plain.com/a.jpg"),
        ("//localhost:8000/a.jpg", "/data/day.parquet", None, "http://localhost:8000/a.jpg"),
        ("shop.com/a.jpg", "/data/day.parquet", "/data/images", "https://shop.com/a.jpg"),
        ("Plain.com/a b.jpg", "/data/day.parquet", None, "http://plain.com/a b.jpg"),
        ("both.com/a.jpg", "/data/day.parquet", None, "https://both.com/a.jpg"),
        ("WWW.shop.com/a.jpg", "/data/day.parquet", None, "https://www.shop.com/a.jpg"),
        ("./shop.com/a.jpg", "/data/day.parquet", None, "/data/shop.com/a.jpg"),
        ("other.com/a.jpg", "/data/day.parquet", None, "/data/other.com/a.jpg"),
        ("www.jpg", "/data/day.parquet", None, "/data/www.jpg"),
        ("www/a.jpg", "/data/day.parquet", None, "/data/www/a.jpg"),
        ("//data/x.jpg", "/data/day.parquet", None, "/data/x.jpg"),
        ("s3a://shop/a//b.jpg", "/data/day.parquet", None, "s3://shop/a//b.jpg"),
        ("HTTPS://SHOP.com:443/a.jpg?w=300#top", "/data/day.parquet", None, "https://shop.com/a.jpg?w=300"),
        ("https://shop.com", "/data/day.parquet", None, "https://shop.com/"),
    ],
)
def test_a_uri_is_made_absolute(uri, named_in, root, absolute):
    allowed = ("/data", "s3://shop/", "https://shop.com/", "https://www.shop.com/", "10.0.0.0/8")
    allowed += ("http://plain.com/", "http://localhost:8000/", "http://both.com/", "https://both.com/")
    assert resolved(uri, *allowed, named_in=named_in, root=root) == absolute


@pytest.mark.parametrize(
    ("uri", "prefix", "allowed"),
    [
        ("https://a.com/img/x", "https://a.com/img", True),
        ("https://a.com/img", "https://a.com/img", True),
        ("https://a.com/imgx", "https://a.com/img", False),
        ("https://a.com/img/x", "https://a.com/img/", True),
        ("https://a.com/img", "https://a.com/img/", True),
        ("https://a.com/img%2Fx", "https://a.com/img/", False),
        ("https://a.com/%69mg/x", "HTTPS://A.COM:443/img", True),
        ("https://a.com//img/x", "https://a.com/img", False),
        ("https://a.com:8443/img/x", "https://a.com/img", False),
        ("http://a.com/img/x", "https://a.com/img", False),
        ("https://a.com.evil.com/img/x", "https://a.com/img", False),
        ("https://[::1]:8080/x", "https://[::1]:8080/", True),
        ("https://2852039166/x", "https://169.254.169.254/", False),
        ("/data/cat/x", "/data/cat", True),
        ("/data/cat2/x", "/data/cat", False),
        ("//data/cat/x", "/data/cat", True),
        ("file:///etc/passwd", "/data/cat", False),
        ("s3://shop/x", "s3://shop", True),
        ("s3://shop-private/x", "s3://shop", False),
        ("gs://shop/x", "s3://shop", False),
        ("s3://Shop/x", "s3://shop", False),
        ("file:///data/cat%2Fx", "/data/cat", True),
        ("file:///data/cat/../x", "/data/", None),
        ("file:///data/cat/%2e%2e/x", "/data/", None),
        ("file:///data/cat/%252e%252e/x", "/data/", None),
        ("..\\cat\\x", "/data/", None),
        ("x\\..\\..\\..\\etc\\passwd", "/data/", None),
        ("\\\\server\\cat\\x", "/data/", None),
        ("C:\\cat\\x", "/data/", None),
        ("//evil.com/x", "https://a.com/", False),
        ("//169.254.169.254/latest/meta-data", "/", False),
        ("www.evil.com/x", "https://a.com/", False),
        ("a.com/../x", "https://a.com/img", None),
        ("a.com@evil.com/x", "https://a.com/", False),
    ],
)
def test_a_uri_is_allowed_if_it_is_below_a_prefix(uri, prefix, allowed):
    result = resolved(uri, "/nothing", prefix)
    if allowed:
        assert isinstance(result, str)
    elif allowed is None:
        assert result.reason == "uri_invalid"
    else:
        assert (result.stage, result.reason) == ("fetch", "uri_not_allowed")
        assert uri.rpartition("//")[2].partition("/")[0] in result.message
        assert "give --allow-prefix " in result.message


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "", "%20"])
PATHS = st.lists(NAMES, max_size=3)
HOSTS = st.sampled_from(
    ["https://a.com", "https://b.com", "http://a.com", "https://a.com:8443", "s3://a.com", "s3://b"]
)


@given(HOSTS, PATHS, HOSTS, PATHS)
def test_a_prefix_allows_exactly_the_uris_that_begin_with_its_segments(host, path, prefix_host, prefix_path):
    uri, prefix = "/".join([host, *path, "x"]), "/".join([prefix_host, *prefix_path])
    parts = prefix_path[:-1] if prefix_path and not prefix_path[-1] else prefix_path  # a trailing slash has no meaning
    allowed = host == prefix_host and [*path, "x"][: len(parts)] == parts
    assert reasons([resolved(uri, prefix)]) == [None if allowed else "uri_not_allowed"]


TOKENS = ["https://", "http:", "//", "/", "\\", "@", ":", "443", "?", "#", ";", ".", "..", "%2e", "%2f", "%5c", "%252e"]
TOKENS += [" ", "img.example.com", "evil.com", "shop", "x", "\n", "\x00", "[", "]", "\uff0f", "\u3002", "\uff41", "é"]
TOKENS += ["&", "=", "%"]


@given(st.lists(st.sampled_from(TOKENS), max_size=8), st.sampled_from(["", "https://img.example.com", f"{WEB[0]}a"]))
def test_the_requested_url_has_the_host_and_folder_that_were_checked(tokens, start):
    """aiohttp, and so the server, must not see another host or folder than the check did."""
    result = located(start + "".join(tokens), rules(*WEB), "https://img.example.com/shop/day.parquet")
    if isinstance(result, Location):
        sent = request_url(result)
        assert (sent.scheme, sent.raw_authority, sent.raw_host, sent.port) == (
            "https",
            "img.example.com",
            "img.example.com",
            443,
        )
        assert (sent.raw_user, sent.raw_password, sent.raw_fragment) == (None, None, "")
        assert sent.raw_path.startswith("/shop") and sent.raw_path[5:6] in ("", "/")
        assert ".." not in sent.raw_path.split("/")
        assert sent.raw_path_qs.isascii() and sent.raw_path_qs.isprintable() and " " not in sent.raw_path_qs


@given(
    st.sampled_from(["https://img.example.com/shop/", "s3://shop/", "/data/", ""]),
    st.sampled_from(["..", "..;x", ".%2e", "a\\b", "a\nb", "a\x00b", "a\x7fb"]),
    st.integers(0, 3),
    st.sampled_from(["", "a/"]),
)
def test_a_path_with_two_dots_or_odd_characters_is_invalid_however_it_is_encoded(start, part, times, before):
    if "\\" in part and not start:
        start = "/data/"  # in a relative path it separates folders, as on Windows
    for _ in range(times):
        part = "".join(f"%{byte:02x}" for byte in part.encode()) if "%" not in part else quote(part)
    result = resolved(f"{start}{before}{part}/passwd", *WEB, "s3://shop/", "/data/")
    assert result.reason == "uri_invalid"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://",
        "https:///shop/x",
        "https://img.example.com:x/shop/",
        "https://img.exämple.com/shop/x",
        "https://img.example.com\t/shop/x",
        "https://img.example.com/shop/x?y=\n",
        "https://img.example.com/shop/x?y=\\z",
        "https://img.example.com/shop/\udcff",
        "ftp://img.example.com/shop/x",
        "s3://",
        "s3://shop",
        "s3://shop/",
        "s3:///x",
        "file://",
        "file://host/x",
        "/",
    ],
)
def test_a_uri_that_names_no_image_is_invalid(uri):
    result = resolved(uri, *WEB, "s3://shop/", "/", named_in="")
    assert result.reason == "uri_invalid"
    assert result.message.startswith(f"{uri}: ".replace("\t", "")[:20].strip(":/ "))


@pytest.mark.parametrize("path", ["x" * 70_000, "%" + "25" * 30_000, "%" + "25" * 9 + "2e"])
def test_a_uri_that_is_endless_or_encoded_over_and_over_is_invalid_at_once(path):
    """Its check takes time that grows with its length, not with the square of it."""
    began = time.monotonic()
    assert resolved(f"{WEB[0]}{path}", *WEB).reason == "uri_invalid"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("prefix", ["images", "https://", "ftp://a.com/", "s3://", "/data/../etc", "https://a@b.com/"])
def test_a_prefix_that_could_never_match_is_refused_at_once(prefix):
    with pytest.raises(UsageError, match="--allow-prefix "):
        rules("/data", prefix)


def test_the_message_of_a_reject_has_the_cause_however_long_the_uri_is():
    result = resolved("https://evil.com/" + "x" * 8000, *WEB)
    assert result.message.startswith("https://evil.com/xx")
    assert result.message.endswith("give --allow-prefix https://evil.com/")
    assert len(result.message) <= 500


@pytest.mark.parametrize(
    ("uri", "reason", "shown"),
    [
        ("https://user:word@img.example.com/shop/x", "uri_invalid", "https://***@img.example.com/shop/x: its host"),
        ("https://img.example.com@evil.com/shop/x", "uri_invalid", "https://***@evil.com/shop/x: its host"),
        ("s3://key:se/cret@shop/x", "uri_invalid", "s3://***@shop/x: it names no bucket"),
        (f"https://{'u' * 300}:word@img.example.com/x", "uri_invalid", "https://***@img.example.com/x: its host"),
        (
            "https://evil.com/x?X-Amz-Signature=a b&sig=word",
            "uri_not_allowed",
            "https://evil.com/x?X-Amz-Signature=***&",
        ),
    ],
)
def test_the_message_of_a_reject_has_no_credentials_of_the_uri(uri, reason, shown):
    result = resolved(uri, *WEB)
    assert result.reason == reason
    assert result.message.startswith(shown)
    assert "word" not in result.message and "cret" not in result.message


def test_rules_with_equal_limits_are_equal():
    """Fetchers are cached by their rules."""
    assert len({rules("/data"), rules("/data"), rules("/data", attempts=1)}) == 2
    assert rules("/data").limits == FetchLimits()
    assert {scheme: FetchLimits().threads_per_host(scheme) for scheme in ("http", "https", "s3", "gs", "file")} == {
        "http": 8,
        "https": 8,
        "s3": 32,
        "gs": 32,
        "file": 16,
    }


@pytest.mark.parametrize("path", ["a" * 80_000, "%" + "25" * 40_000, "%" + "25" * 4000])
def test_a_uri_that_is_too_long_or_encoded_too_often_is_refused_in_time(path):
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"at most 8,192 are possible|percent-encoded 8 times or more"):
        parse_location(f"https://img.example.com/{path}.jpg")
    assert time.perf_counter() - began < 1  # about 0.001 s, and 3.5 s when it was decoded to the end
