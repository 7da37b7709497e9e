"""The JSON API, asked by a client over a socket."""

import json
import re
import socket
from urllib.parse import urlencode

import pytest

from pipelines.sample_catalog import draw
from pipelines.serve.config import ServeConfig, ServeLimits
from tests.pipelines.serve.client import WAIT_SECONDS, running, until
from tests.pipelines.serve.shapes import TABLE, VERSION

STAR = draw("circle", "yellow", "blue")
TEXT = "a red circle on a black background"


def test_an_answer_has_version_model_time_and_results_best_first(client):
    answer = client.search(text=TEXT, k=3)
    assert answer.status == 200
    found = answer.json
    assert {"version", "model", "took_ms", "results"} <= found.keys()
    assert found["version"] == VERSION
    assert "vista-tiny" in found["model"]
    assert found["took_ms"] > 0
    assert len(found["results"]) == 3
    assert list(found["results"][0])[:2] == ["id", "score"]
    scores = [row["score"] for row in found["results"]]
    assert scores == sorted(scores, reverse=True)


def test_search_by_text_by_image_and_by_both(client):
    assert client.ids(image=STAR, k=1) == ["circle-yellow-on-blue"]
    by_text, by_both = client.ids(text=TEXT, k=5), client.ids(text="on white", image=STAR, k=5)
    assert by_text != by_both != client.ids(image=STAR, k=5)


def test_rows_like_one_and_like_one_with_a_change(client):
    like = client.ids(like="circle-yellow-on-blue", k=5)
    changed = client.ids(like="circle-yellow-on-blue", text="a red square", k=5)
    assert "circle-yellow-on-blue" not in like + changed
    assert like != changed


def test_keywords_and_hybrid(client):
    for row in client.search(text="triangle", mode="text", k=5).json["results"]:
        assert "triangle" in row["text"]
    assert client.search(text="purple triangle", mode="hybrid", k=5).status == 200
    assert client.ids(text="zeppelin", mode="text") == []


def test_a_filter_is_applied_and_pages_follow_each_other(client):
    filtered = client.search(text=TEXT, where="shape = 'square' AND price < 25", k=100).json["results"]
    assert filtered
    assert {row["shape"] for row in filtered} == {"square"}
    whole = client.ids(text=TEXT, k=20)
    assert client.ids(text=TEXT, k=10) + client.ids(text=TEXT, k=10, offset=10) == whole


def test_a_version_by_number_and_by_tag(client):
    assert client.ids(text=TEXT, version=VERSION) == client.ids(text=TEXT, version="published") == client.ids(text=TEXT)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "nothing to search with"),
        ({"text": "x", "where": "nope = 1"}, "No field named nope"),
        ({"text": "x", "where": "price > 1) OR (price < 9"}, "parentheses"),
        ({"text": "x", "where": "(SELECT 1) = 1"}, "where"),
        ({"text": "x", "version": 99}, "version 99 does not exist"),
        ({"text": "x", "version": "nightly"}, "version nightly"),
        ({"text": "x", "column": "nope"}, "column nope"),
        ({"image": b"no image"}, "image: not an image"),
        ({"like": "nope"}, "no row with the id 'nope'"),
        ({"mode": "text", "image": STAR}, "give text"),
    ],
)
def test_what_cannot_be_answered_is_400_and_says_why(client, db, fields, said):
    answer = client.search(**fields)
    assert answer.status == 400
    detail = answer.json["detail"]
    assert said in detail
    assert not re.search(r"--[a-z]", detail), "an option of the command line is not a field of the API"
    assert db not in detail, "where the table is concerns nobody who asks"


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x", "k": 0},
        {"text": "x", "k": 101},
        {"text": "x", "k": "many"},
        {"text": "x", "offset": 10_000},
        {"text": "x", "mode": "magic"},
        {"text": "x", "where": "x" * 5000},
        {"text": "x", "db": "/etc"},
        {"image": "/etc/passwd"},
        {"image": "https://example.com/a.png"},
    ],
    ids=str,
)
def test_fields_that_are_not_valid_are_422(client, fields):
    assert client.search(**fields).status == 422


def test_a_body_that_is_no_form_is_415_instead_of_a_search_for_nothing(client):
    answer = client.request("POST", "/api/search", json.dumps({"text": TEXT}), {"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"].partition(" as ")[0]) == (415, "send a form,")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    found = client.request("POST", "/api/search", urlencode({"text": TEXT, "k": 20}), form)
    assert [row["id"] for row in found.json["results"]] == client.ids(text=TEXT, k=20)


def test_a_body_that_is_too_long_is_413_whether_its_length_is_told_or_not(db):
    with running(ServeConfig(db, TABLE, port=0, device="cpu"), ServeLimits(body_bytes=100_000)) as client:
        assert client.search(image=bytes(99_000)).status == 400, "just no image"
        assert client.search(image=bytes(101_000)).status == 413
        kind = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"}
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        sent = iter([head, *[bytes(10_000)] * 11, b"\r\n--x--\r\n"])
        assert client.request("POST", "/api/search", sent, kind).status == 413


def test_a_body_that_does_not_arrive_is_408(db):
    with running(ServeConfig(db, TABLE, port=0, device="cpu"), ServeLimits(body_seconds=0.2)) as client:
        host, port = client.place.split(":")
        with socket.create_connection((host, int(port)), WAIT_SECONDS) as connection:
            head = f"POST /api/search HTTP/1.1\r\nHost: {client.place}\r\nContent-Length: 99\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_bodies_that_are_under_way_are_limited_together(db):
    limits = ServeLimits(body_bytes=100_000, bodies_bytes=150_000, retry_after=3)
    with running(ServeConfig(db, TABLE, port=0, device="cpu"), limits) as client:
        host, port = client.place.split(":")
        head = f"POST /api/search HTTP/1.1\r\nHost: {client.place}\r\nContent-Length: 90100\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        with socket.create_connection((host, int(port)), WAIT_SECONDS) as connection:
            start = f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n{part}".encode()
            connection.sendall(start + bytes(90_000))
            until(lambda: client.search(image=bytes(80_000)).status == 503)
            assert client.search(image=bytes(80_000)).headers["retry-after"] == "3"
            assert client.search(text="x").status == 200
        until(lambda: client.search(image=bytes(80_000)).status == 400)


def test_images_come_as_thumbnails_that_may_be_kept(client):
    answer = client.get(f"/api/image?id=circle-yellow-on-blue&version={VERSION}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in answer.headers["cache-control"]
    assert client.get("/api/image?id=circle-yellow-on-blue").headers["cache-control"] == "no-store", "it may change"
    assert client.get(f"/api/image?id=nope&version={VERSION}").status == 404
    assert client.get(f"/api/image?id=circle-yellow-on-blue&version={VERSION}&size=12345").status == 422
    assert client.get("/api/image?id=circle-yellow-on-blue&version=99").status == 400


def test_the_table_and_its_filters_are_described(client):
    table = client.get("/api/table").json
    assert (table["name"], table["rows"], table["version"], table["tags"]) == (
        "shapes",
        120,
        VERSION,
        {"published": VERSION},
    )
    assert [each["name"] for each in table["columns"] if each["vector"]] == ["vector"]
    facets = {each["column"]: each for each in client.get("/api/filters").json["facets"]}
    assert {"price", "shape", "in_stock", "added", "modality"} == facets.keys()
    assert facets["shape"]["choices"] == [["circle", 56], ["square", 56], ["triangle", 8]]


def test_health_and_metrics(client):
    client.search(text=TEXT)
    assert client.get("/healthz").json == {"status": "ok"}
    text = client.get("/metrics").body.decode()
    assert re.search(r'vista_requests_total\{route="/api/search",status="200"\} [1-9]', text)
    assert re.search(r'vista_search_seconds_count\{mode="vector"\} [1-9]', text)
    assert f"vista_published_version {VERSION}.0" in text
    assert "process_resident_memory_bytes" in text
    client.get("/no/such/page")
    assert "/no/such" not in client.get("/metrics").body.decode(), "labels are bounded"


def test_openapi_describes_the_form_and_the_answer(client):
    api = client.get("/openapi.json").json
    form = api["paths"]["/api/search"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = api["components"]["schemas"][form["$ref"].rpartition("/")[2]]["properties"]
    assert {"text", "image", "k", "where", "mode", "version"} <= fields.keys()


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/static/style.css", "/static/docs.js"])
def test_nothing_is_loaded_from_elsewhere(client, path):
    answer = client.get(path)
    assert answer.status == 200
    text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=", text), "nothing inline: the policy forbids it"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/static/../api.py", "/static/%2e%2e/api.py", "/static/..%2fapi.py", "/static//etc/passwd"]
)
def test_no_request_reaches_a_file(client, path):
    assert client.get(path).status == 404


def test_answers_are_json_for_every_value(tmp_path, shapes):
    import pyarrow as pa

    from tests.pipelines.serve.shapes import publish

    odd = shapes.slice(0, 2).append_column("ratio", pa.array([float("nan"), float("inf")]))
    odd = odd.append_column("big", pa.array([2**63 - 1, 5])).append_column("raw", pa.array([b"\xff", None]))
    odd = odd.append_column("tags", pa.array([["a", "<script>"], None]))
    publish(tmp_path, odd)
    with running(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu")) as client:
        answer = client.search(like=shapes["id"][1].as_py())
        [row] = json.loads(answer.body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["results"]
        assert (row["ratio"], row["big"], row["tags"]) == ("nan", str(2**63 - 1), ["a", "<script>"])
        assert "raw" not in row
