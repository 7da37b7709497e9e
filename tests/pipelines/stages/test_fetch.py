"""The fetch stage: external images of a table of records get an identity, then their content, or become rejects."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchRules
from pipelines.reasons import Reject
from pipelines.records import FLOW_FIELDS, read_schema, with_rejects
from pipelines.stages.fetch import fetch, identify
from tests.images_over_http import ImageServer, serve_images


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serve_images() as running:
        yield running
    shared_fetcher.cache_clear()


def rules(*allowed: str, identity="version") -> FetchRules:
    return FetchRules(allowed, root=None, max_bytes=100_000, timeout_seconds=10.0, identity=identity)


def as_read(uris) -> pa.Table:
    rows = [
        {"id": str(n), "image_uri": uri, "_object": "/data/catalog/day.parquet", "_row": n}
        for n, uri in enumerate(uris)
    ]
    return pa.Table.from_pylist(rows, schema=read_schema(pa.schema([("price", pa.float64())])))


def as_selected(table: pa.Table) -> pa.Table:
    for field in FLOW_FIELDS:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def fetched(uris, given: FetchRules) -> list[bytes | Reject]:
    """The content of each image, or the reject of its record."""
    return [
        row["image"] if row["_reason"] is None else Reject(row["_stage"], row["_reason"], row["_message"])
        for row in fetch(as_selected(as_read(uris)), given).to_pylist()
    ]


def identified(uris, given: FetchRules) -> list[str | bytes | Reject]:
    """The identity of each image, or its content if that is its identity, or the reject of its record."""
    table, rejects, externals = identify(as_read(uris), {}, given)
    images = table["image"].to_pylist()
    assert [each.uri for each in externals if each] == [uri for row, uri in enumerate(uris) if row not in rejects]
    identities = [each and each.identity for each in externals]
    for row, identity in enumerate(identities):
        assert [identity is not None, images[row] is not None, row in rejects].count(True) == 1
    return [rejects.get(row, images[row] or identity) for row, identity in enumerate(identities)]


def test_each_record_gets_its_image_or_a_reject(server):
    paths = ["/good/1.png", "/missing/1.png", "/bare/1.png", "/good/2.png"]
    uris = [*(f"{server.url}{path}" for path in paths), "https://evil.com/1.png", "https://"]
    ends = [None, "fetch_not_found", None, None, "uri_not_allowed", "uri_invalid"]
    for results in (fetched(uris, rules(server.url)), identified(uris, rules(server.url))):
        rejects = {row: result for row, result in enumerate(results) if isinstance(result, Reject)}
        assert [rejects[row].reason if row in rejects else None for row in range(len(uris))] == ends
        assert all(rejects[row].message.startswith(f"{uris[row]}: ") for row in rejects)
        assert all(reject.stage == "fetch" for reject in rejects.values())
    assert [fetched(uris, rules(server.url))[row] for row in (0, 2, 3)] == [
        server.image(paths[row]) for row in (0, 2, 3)
    ]
    with_version, without = [identified(uris, rules(server.url))[row] for row in (0, 2)]
    assert with_version.startswith(f"{uris[0]}\0")
    assert without == server.image("/bare/1.png")


def test_the_user_chooses_how_images_are_identified(server):
    uris = [f"{server.url}/good/1.png", f"{server.url}/missing/1.png"]
    assert identified(uris, rules(server.url, identity="uri")) == uris
    assert not server.asked
    image, missing = identified(uris, rules(server.url, identity="content"))
    assert image == server.image("/good/1.png")
    assert missing.reason == "fetch_not_found"
    assert server.total("HEAD") == 0


def test_only_external_images_are_fetched(server):
    uri, other = f"{server.url}/good/1.png", f"{server.url}/good/2.png"
    rows = [
        {"id": "internal", "image": b"bytes", "image_uri": uri},
        {"id": "text", "text": "x"},
        {"id": "bad", "image_uri": uri},
        {"id": "external", "image_uri": other, "price": 1.5},
    ]
    records = pa.Table.from_pylist(rows, schema=as_read([]).schema)
    table, rejects, identities = identify(records, {2: Reject("read", "column_type", "x")}, rules(server.url))
    assert table == records
    assert rejects == {2: Reject("read", "column_type", "x")}
    assert [identity is not None for identity in identities] == [False, False, False, True]
    stats = {"read": 7, "unchanged_addresses": [1], "unchanged_rows": [2]}
    records = with_rejects(as_selected(records), rejects)
    records = pa.concat_tables([records, pa.Table.from_pylist([{"_stats": stats}], schema=records.schema)])
    result = fetch(records, rules(server.url))
    images = [b"bytes", None, None, server.image("/good/2.png"), None]
    assert [each["name"] for each in result["_measured"][0].as_py()] == ["fetch"]
    assert result.drop_columns("_measured").to_pylist() == [
        row | {"image": image} for row, image in zip(records.drop_columns("_measured").to_pylist(), images, strict=True)
    ]
    assert {path for _, path in server.asked} == {"/good/2.png"}


def test_a_table_without_external_images_is_unchanged():
    for uris in ([], [None, None]):
        table = as_selected(as_read(uris))
        assert fetch(table, rules("/data")).drop_columns("_measured") == table.drop_columns("_measured")
        assert identify(as_read(uris), {}, rules("/data")) == (as_read(uris), {}, [None] * len(uris))


def test_a_uri_that_is_not_utf8_is_invalid():
    uris = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx"))
    table = as_read([None]).set_column(3, "image_uri", uris)
    _, rejects, _ = identify(table, {}, rules("/data", identity="uri"))
    assert rejects[0].reason == "uri_invalid"
    assert "\\xffx" in rejects[0].message
