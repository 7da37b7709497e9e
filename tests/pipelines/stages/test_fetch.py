"""Images that are elsewhere arrive, or their records say why; and data names nothing that the user doesn't allow."""

import importlib.util
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import FLOW_FIELDS, Reject, read_schema, with_rejects
from pipelines.sources.objects import SourceError
from pipelines.stages import fetch as stage
from pipelines.stages import servers
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.places import FetchRules
from tests.images_over_http import METADATA_SERVICE, ImageServer, serve_images
from tests.pipelines.sources.conftest import Store, new_store
from tests.s3 import environment
from vista_core import UsageError

OBJECT = "/data/catalog/day.parquet"
WEB = ("https://img.example.com/shop/",)


@pytest.fixture
def local(request) -> Store:
    return new_store("local", request)


@pytest.fixture
def bucket(request) -> Store:
    return new_store("s3", request)


@pytest.fixture
def server():
    with serve_images() as running:
        yield running


@pytest.fixture(autouse=True)
def fetchers_of_their_own():
    yield
    stage.fetcher.cache_clear()


def rules(*allowed: str, root=None, max_bytes=100_000, seconds=10.0, identity="version") -> FetchRules:
    return FetchRules(allowed, root, max_bytes, seconds, identity)


def as_read(uris, named_in: str = OBJECT) -> pa.Table:
    rows = [{"id": str(n), "image_uri": uri, "_object": named_in, "_row": n} for n, uri in enumerate(uris)]
    return pa.Table.from_pylist(rows, schema=read_schema(pa.schema([("price", pa.float64())])))


def as_selected(table: pa.Table) -> pa.Table:
    for field in FLOW_FIELDS:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def fetched(uris, given: FetchRules, named_in: str = OBJECT) -> list[bytes | Reject]:
    """What each image ended as."""
    table = fetch(as_selected(as_read(uris, named_in)), given)
    return [
        row["image"] if row["_reason"] is None else Reject(row["_stage"], row["_reason"], row["_message"])
        for row in table.to_pylist()
    ]


def identified(uris, given: FetchRules, named_in: str = OBJECT) -> list[str | bytes | Reject]:
    """What stands for each image, or the content that does so itself."""
    table, rejects, identities = identify(as_read(uris, named_in), {}, given)
    images = table["image"].to_pylist()
    for row, identity in enumerate(identities):
        assert [identity is not None, images[row] is not None, row in rejects].count(True) == 1
    return [rejects.get(row, images[row] or identity) for row, identity in enumerate(identities)]


def reasons(results) -> list[str | None]:
    return [result.reason if isinstance(result, Reject) else None for result in results]


def resolved(uri: str, *allowed: str, named_in: str = OBJECT, root=None) -> str | Reject:
    [result] = identified([uri], rules(*allowed, root=root, identity="uri"), named_in)
    return result


# What may be named


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
        ("/data/x.jpg", "s3://shop/day.parquet", "/elsewhere", "/data/x.jpg"),
        ("file:///data/x.jpg", "s3://shop/day.parquet", None, "/data/x.jpg"),
        ("s3a://shop/a//b.jpg", "/data/day.parquet", None, "s3://shop/a//b.jpg"),
        ("HTTPS://SHOP.com:443/a.jpg?w=300#top", "/data/day.parquet", None, "https://shop.com/a.jpg?w=300"),
        ("https://shop.com", "/data/day.parquet", None, "https://shop.com/"),
    ],
)
def test_a_name_is_resolved_to_where_the_image_is(uri, named_in, root, absolute):
    allowed = ("/data", "s3://shop/", "https://shop.com/")
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
    ],
)
def test_what_is_below_a_prefix(uri, prefix, allowed):
    result = resolved(uri, "/nothing", prefix)
    if allowed:
        assert isinstance(result, str)
    else:
        assert (result.stage, result.reason) == ("fetch", "uri_not_allowed")
        assert uri.partition("://")[2].partition("/")[0] in result.message
        assert "give --allow-prefix " in result.message


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "", "%20"])
PATHS = st.lists(NAMES, max_size=3)
HOSTS = st.sampled_from(
    ["https://a.com", "https://b.com", "http://a.com", "https://a.com:8443", "s3://a.com", "s3://b"]
)


@given(HOSTS, PATHS, HOSTS, PATHS)
def test_a_prefix_allows_exactly_what_begins_with_all_its_parts(host, path, prefix_host, prefix_path):
    uri, prefix = "/".join([host, *path, "x"]), "/".join([prefix_host, *prefix_path])
    parts = prefix_path[:-1] if prefix_path and not prefix_path[-1] else prefix_path  # a slash at its end says nothing
    allowed = host == prefix_host and [*path, "x"][: len(parts)] == parts
    assert reasons([resolved(uri, prefix)]) == [None if allowed else "uri_not_allowed"]


TOKENS = [
    "https://",
    "http:",
    "//",
    "/",
    "\\",
    "@",
    ":",
    "443",
    "?",
    "#",
    ";",
    ".",
    "..",
    "%2e",
    "%2f",
    "%5c",
    "%252e",
    " ",
]
TOKENS += [
    "img.example.com",
    "evil.com",
    "shop",
    "x",
    "\n",
    "\x00",
    "[",
    "]",
    "\uff0f",
    "\u3002",
    "\uff41",
    "é",
    "&",
    "=",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=8), st.sampled_from(["", "https://img.example.com", f"{WEB[0]}a"]))
def test_what_is_asked_for_is_what_was_allowed_whoever_reads_it(tokens, start):
    """requests, and so the server, must not see another host or folder than the check did."""
    result = resolved(start + "".join(tokens), *WEB, named_in="https://img.example.com/shop/day.parquet")
    if isinstance(result, str):
        sent = urlsplit(requests.Request("GET", result).prepare().url)
        assert (sent.scheme, sent.netloc) == ("https", "img.example.com")
        assert sent.path.startswith("/shop") and sent.path[5:6] in ("", "/")
        assert ".." not in sent.path.split("/")


@given(
    st.sampled_from(["https://img.example.com/shop/", "s3://shop/", "/data/", ""]),
    st.sampled_from(["..", "..;x", ".%2e", "a\\b", "a\nb", "a\x00b", "a\x7fb"]),
    st.integers(0, 3),
    st.sampled_from(["", "a/"]),
)
def test_a_path_that_climbs_is_invalid_however_it_is_encoded(start, part, times, before):
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
        "https://img.example.com@evil.com/shop/x",
        "https://user:word@img.example.com/shop/x",
        "https://img.example.com:x/shop/",
        "https://img.exämple.com/shop/x",
        "https://img.example.com\t/shop/x",
        "https://img.example.com/shop/x?y=\n",
        "https://img.example.com/shop/x?y=\\z",
        "ftp://img.example.com/shop/x",
        "s3://",
        "s3://shop",
        "s3://shop/",
        "s3:///x",
        "s3://key:secret@shop/x",
        "file://",
        "file://host/x",
        "/",
    ],
)
def test_what_names_no_image_is_invalid(uri):
    result = resolved(uri, *WEB, "s3://shop/", "/", named_in="")
    assert result.reason == "uri_invalid"
    assert result.message.startswith(f"{uri}: ".replace("\t", "")[:20].strip(":/ "))


def test_a_name_that_is_not_utf8_is_invalid():
    names = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx"))
    table = as_read([None]).set_column(3, "image_uri", names)
    _, rejects, _ = identify(table, {}, rules("/data", identity="uri"))
    assert rejects[0].reason == "uri_invalid"
    assert "\\xffx" in rejects[0].message


@pytest.mark.parametrize("prefix", ["images", "https://", "ftp://a.com/", "s3://", "/data/../etc", "https://a@b.com/"])
def test_a_prefix_that_could_never_match_is_refused_at_once(prefix):
    with pytest.raises(UsageError, match="--allow-prefix "):
        rules("/data", prefix)


# From HTTP servers

ENDS = {
    "good": None,
    "bare": None,
    "signed": None,
    "zipped": None,
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
    "outside": "uri_not_allowed",
    "to-file": "uri_not_allowed",
    "to-user": "uri_invalid",
    "to-nonsense": "uri_invalid",
    "to-bytes": "uri_invalid",
}


def test_each_image_of_a_batch_arrives_or_says_why_not(server):
    """Too few of them are slow for the host to count as down."""
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


def test_only_what_may_mend_itself_is_tried_again(server):
    kinds = [kind for kind, reason in ENDS.items() if reason != "fetch_timeout" and not kind.startswith("inside")]
    fetched([f"{server.url}/{kind}/1.png" for kind in kinds], rules(server.url, "/etc"))
    again = {"cut-once": 2, "broken-once": 2, "busy-once": 2, "cut": 3, "cut-chunked": 3, "broken": 3, "loop": 6}
    assert {kind: server.gets(f"/{kind}/1.png") for kind in kinds} == dict.fromkeys(kinds, 1) | again


def test_time_is_up_even_if_there_is_more_to_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.001)
        reader = servers.TimedReader(ours)
        theirs.send(b"more")
        while time.monotonic() <= reader.deadline:
            pass
        with pytest.raises(TimeoutError):
            reader.read(1)
        reader.close()


def test_a_version_is_asked_for_and_where_there_is_none_the_content_stands_for_itself(server):
    kinds = ["good", "dated", "inside", "endless", "bare", "no-head", "signed", "large", "missing", "locked", "outside"]
    uris = [f"{server.url}/{kind}/1.png" for kind in kinds]
    good, dated, inside, endless, *contents, large, missing, locked, outside = identified(uris, rules(server.url))
    for uri, identity in zip(uris, (good, dated, inside, endless), strict=False):
        assert identity.startswith(f"{uri}\0")
    assert dated.endswith(f"\0{len(server.image('/dated/1.png'))}-Mon, 01 Jan 2024 00:00:00 GMT")
    assert good.partition("\0")[2] == inside.partition("\0")[2]
    assert contents == [server.image(f"/{kind}/1.png") for kind in ("bare", "no-head", "signed")]
    assert reasons([large, missing, locked, outside]) == [
        "fetch_too_large",
        "fetch_not_found",
        "fetch_forbidden",
        "uri_not_allowed",
    ]
    assert server.total("HEAD") == len(kinds) + 1, "one is redirected"
    assert server.total("GET") == len(contents) + 1, "and of what is locked to HEAD, one can't know"


def test_a_length_that_is_no_number_is_none(server):
    [identity] = identified([f"{server.url}/long/1.png"], rules(server.url))
    assert identity.endswith('\0"1"')


def test_what_identifies_an_image_is_the_users_choice(server):
    uris = [f"{server.url}/good/1.png", f"{server.url}/missing/1.png"]
    assert identified(uris, rules(server.url, identity="uri")) == uris
    assert not server.asked
    image, missing = identified(uris, rules(server.url, identity="content"))
    assert image == server.image("/good/1.png")
    assert missing.reason == "fetch_not_found"
    assert server.total("HEAD") == 0


def test_an_identity_changes_when_the_image_does(server):
    uris = [f"{server.url}/good/{n}.png" for n in range(3)]
    before = identified(uris, rules(server.url))
    assert identified(uris, rules(server.url)) == before
    assert len(set(before)) == 3
    server.edition = 2
    assert not set(before) & set(identified(uris, rules(server.url)))


def test_only_images_elsewhere_are_asked_for(server):
    uri, other = f"{server.url}/good/1.png", f"{server.url}/good/2.png"
    rows = [
        {"id": "there", "image": b"bytes", "image_uri": uri},
        {"id": "text", "text": "x"},
        {"id": "bad", "image_uri": uri},
        {"id": "elsewhere", "image_uri": other, "price": 1.5},
    ]
    records = pa.Table.from_pylist(rows, schema=as_read([]).schema)
    table, rejects, identities = identify(records, {2: Reject("read", "column_type", "x")}, rules(server.url))
    assert table == records
    assert rejects == {2: Reject("read", "column_type", "x")}
    assert [identity is not None for identity in identities] == [False, False, False, True]
    tally = {"read": 7, "unchanged_addresses": [1], "unchanged_rows": [2]}
    records = with_rejects(as_selected(records), rejects)
    records = pa.concat_tables([records, pa.Table.from_pylist([{"_tally": tally}], schema=records.schema)])
    result = fetch(records, rules(server.url))
    images = [b"bytes", None, None, server.image("/good/2.png"), None]
    assert result.to_pylist() == [
        row | {"image": image} for row, image in zip(records.to_pylist(), images, strict=True)
    ]
    assert {path for _, path in server.asked} == {"/good/2.png"}


def test_without_anything_elsewhere_a_table_stays_itself():
    for uris in ([], [None, None]):
        table = as_selected(as_read(uris))
        assert fetch(table, rules("/data")) is table
        assert identify(as_read(uris), {}, rules("/data")) == (as_read(uris), {}, [None] * len(uris))


def test_an_image_that_many_records_share_is_fetched_once(server):
    uris = [f"{server.url}/good/{n % 2}.png" for n in range(10)]
    assert fetched(uris, rules(server.url)) == [server.image(f"/good/{n % 2}.png") for n in range(10)]
    assert server.total("GET") == 2


def test_servers_are_asked_by_name_for_plain_bytes_and_never_recognised(server):
    for n in (1, 2):
        fetched([f"{server.url}/cookie/{n}.png"], rules(server.url))
    headers = server.headers["/cookie/2.png"]
    assert headers["User-Agent"].startswith("vista/")
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


def test_a_server_that_asks_for_time_gets_it_within_bounds(server, monkeypatch):
    monkeypatch.setattr(stage, "RETRY_AFTER_SECONDS", 1.0)
    path = "/busy-for-an-hour-once/1.png"
    assert fetched([server.url + path], rules(server.url)) == [server.image(path)]
    first, second = server.times[path]
    assert 1.0 <= second - first < 10


def test_a_server_that_is_not_there_costs_only_its_own_images(server):
    with serve_images() as other:
        gone = other.url
    results = fetched([f"{gone}/good/1.png", f"{server.url}/good/1.png"], rules(gone, server.url))
    assert reasons(results) == ["fetch_failed", None]
    assert "refused" in results[0].message


def test_a_slow_host_holds_neither_the_others_nor_more_than_its_share(server):
    number, gate = 40, threading.Event()

    def count() -> None:
        if server.total("GET") == number:
            gate.set()

    with serve_images() as slow:
        slow.on_request = gate.wait  # until all images of the other host have been asked for
        server.on_request = count
        uris = [f"{host.url}/good/{n}.png" for host in (slow, server) for n in range(number)]
        assert reasons(fetched(uris, rules(slow.url, server.url))) == [None] * len(uris)
        assert 1 < slow.peak <= stage.SHARES["http"]
        assert slow.total("GET") == number, "none was given up meanwhile"


def test_a_process_asks_for_so_many_at_once(server, monkeypatch):
    monkeypatch.setattr(stage, "THREADS", 2)
    assert reasons(fetched([f"{server.url}/good/{n}.png" for n in range(40)], rules(server.url))) == [None] * 40
    assert server.peak <= 2


def test_a_host_that_never_answers_counts_as_down_after_a_few_images(server, monkeypatch):
    monkeypatch.setattr(stage, "DOWN_SECONDS", 2.0)
    given = rules(server.url, seconds=0.3)
    results = fetched([f"{server.url}/slow/{n}.png" for n in range(200)], given)
    assert set(reasons(results)) == {"fetch_timeout"}
    assert server.total("GET") <= 3 * stage.SHARES["http"]
    assert sum(f"{server.url} did not answer in time for 5 images in a row" in r.message for r in results) > 180
    server.release.set()
    tries = [fetched([f"{server.url}/good/1.png"], given)]
    assert "counts as down" in tries[0][0].message, "though it would answer by now"
    while reasons(tries[-1]) != [None]:  # until it is asked again
        tries.append(fetched([f"{server.url}/good/1.png"], given))
    assert server.gets("/good/1.png") == 1


def test_an_answer_ends_the_count_of_silent_images(server, monkeypatch):
    monkeypatch.setattr(stage, "ATTEMPTS", 1)
    monkeypatch.setattr(stage, "SILENT_IMAGES", 2)
    given = rules(server.url, seconds=1.0)
    for batch in range(2):
        assert reasons(fetched([f"{server.url}/slow/{batch}.png"], given)) == ["fetch_timeout"]
        assert reasons(fetched([f"{server.url}/good/{batch}.png"], given)) == [None]


def test_one_silent_image_says_nothing_of_its_host(server, monkeypatch):
    monkeypatch.setattr(stage, "ATTEMPTS", 1)
    monkeypatch.setattr(stage, "SILENT_IMAGES", 2)
    given = rules(server.url, seconds=1.0)
    for _ in range(stage.SILENT_IMAGES):
        assert reasons(fetched([f"{server.url}/slow/1.png"], given)) == ["fetch_timeout"]
    assert reasons(fetched([f"{server.url}/good/1.png"], given)) == [None]


# From S3


def test_objects_are_fetched_and_known_by_their_etag(bucket):
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


def test_objects_that_cannot_be_had(bucket):
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
    ("variable", "door"),
    [("AWS_SECRET_ACCESS_KEY", fetched), ("AWS_ACCESS_KEY_ID", identified), (None, fetched), (None, identified)],
)
def test_credentials_that_do_not_work_end_the_run(bucket, monkeypatch, variable, door):
    uri = bucket.put("a.png", b"x")
    if variable:
        monkeypatch.setenv(variable, "wrong")
    else:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SourceError, match=r"a\.png: .*Check AWS_ACCESS_KEY_ID"):
        door([uri], rules(bucket.root))


@pytest.fixture
def bad_store(server, monkeypatch) -> ImageServer:
    """An S3 server whose buckets answer as the image server's folders do."""
    for name, value in environment(server.url).items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.parametrize("door", [fetched, identified])
def test_credentials_that_have_expired_end_the_run_at_once(bad_store, door):
    for uris in ([f"s3://expired/{n}.png" for n in range(300)], ["s3://expired/after.png"]):
        with pytest.raises(SourceError, match=r"s3://expired/.*has expired.*Check AWS_ACCESS_KEY_ID"):
            door(uris, rules("s3://expired"))
    assert bad_store.total("GET") < 150, "the rest was not asked for"


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
    asked = {kind: bad_store.gets(f"/{kind}/1.png") for kind in ends}
    again = {"broken-once": 2, "cut-once": 2, "broken": 3, "cut": 3}
    assert asked == dict.fromkeys(ends, 1) | again, "neither s3fs nor botocore tries again beneath"


def test_a_store_that_is_slow_is_given_up_in_time(bad_store):
    uris = ["s3://slow/1.png", "s3://drip/1.png"]
    assert reasons(fetched(uris, rules(*uris, seconds=0.5))) == ["fetch_timeout"] * 2
    assert all(bad_store.gets(uri.removeprefix("s3:/")) <= 3 for uri in uris)


def test_a_store_that_refuses_head_is_asked_for_the_content(bad_store):
    image, denied = identified(["s3://signed/1.png", "s3://denied/1.png"], rules("s3://signed", "s3://denied"))
    assert image == bad_store.image("/signed/1.png")
    assert denied.reason == "fetch_forbidden"


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_driver_is_named():
    with pytest.raises(SourceError, match="pip install gcsfs"):
        fetched(["gs://shop/a.png"], rules("gs://shop/"))


# From disks


def test_files_are_fetched_and_known_by_size_and_time(local):
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


def test_files_that_cannot_be_had(local):
    local.put("images/large.png", bytes(1001))
    local.put("images/fits.png", bytes(1000))
    os.mkfifo(local.uri("images/fifo"))
    names = ["large.png", "fits.png", "fifo", "", "missing.png", "fits.png/x.png", "x" * 300]
    ends = [
        "fetch_too_large",
        None,
        "fetch_failed",
        "fetch_failed",
        "fetch_not_found",
        "fetch_not_found",
        "fetch_failed",
    ]
    uris = [local.uri(f"images/{name}") for name in names]
    given = rules(local.uri("images"), max_bytes=1000)
    assert reasons(fetched(uris, given)) == reasons(identified(uris, given)) == ends


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_locked_file_is_forbidden(local):
    uri = local.put("a.png", b"x")
    Path(uri).chmod(0)
    assert reasons(fetched([uri], rules(local.root))) == ["fetch_forbidden"]


def test_a_link_may_lead_to_what_is_allowed_only(local):
    local.put("images/a.png", b"image")
    local.put("secret/key", b"secret")
    images = Path(local.uri("images"))
    (images / "inside.png").symlink_to("a.png")
    (images / "outside.png").symlink_to(local.uri("secret/key"))
    (images / "folder").symlink_to(local.uri("secret"))
    (images / "loop").symlink_to("loop")
    uris = [str(images / name) for name in ("inside.png", "outside.png", "folder/key", "loop")]
    for door in (fetched, identified):
        inside, outside, folder, loop = door(uris, rules(str(images)))
        assert not isinstance(inside, Reject)
        assert reasons([outside, folder, loop]) == ["uri_not_allowed", "uri_not_allowed", "fetch_failed"]
        assert local.uri("secret/key") in outside.message
        assert f"give --allow-prefix {local.uri('secret')}/" in outside.message
    assert fetched(uris[:3], rules(str(images), local.uri("secret"))) == [b"image", b"secret", b"secret"]


def test_an_allowed_folder_may_itself_be_a_link(local):
    local.put("images/a.png", b"image")
    Path(local.uri("link")).symlink_to("images")
    assert fetched([local.uri("link/a.png")], rules(local.uri("link"))) == [b"image"]
