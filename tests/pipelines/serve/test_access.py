"""Who may ask: this machine's users, who has the token, and no other page in a browser."""

import pytest

from pipelines.serve.access import COOKIE, Access, Refusal
from pipelines.serve.config import ServeConfig
from tests.pipelines.serve.client import Client, multipart, running
from tests.pipelines.serve.shapes import TABLE
from vista_core import UsageError

TOKEN = "correct-horse-battery-staple"
OPEN, CLOSED = Access(None), Access(TOKEN)


def config(**options: object) -> ServeConfig:
    return ServeConfig("db", "t", **options)


@pytest.fixture(scope="module")
def guarded(db, tmp_path_factory):
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    with running(ServeConfig(db, TABLE, port=0, device="cpu", token_file=str(file))) as client:
        yield client


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "search.example.com", ""])
def test_another_address_than_this_machines_needs_a_token(host):
    with pytest.raises(UsageError, match="--token-file"):
        Access.of(config(host=host), {})
    assert Access.of(config(host=host), {"VISTA_TOKEN": TOKEN}).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.5.5"])
def test_this_machines_own_address_needs_none(host):
    assert Access.of(config(host=host), {}).token is None
    assert Access.of(config(host=host), {"VISTA_TOKEN": TOKEN}).token == TOKEN, "but may have one"


@pytest.mark.parametrize("token", ["short", "with a space in it, too", "umlaut-ümlaut-ümlaut", "x" * 15])
def test_a_token_that_can_be_guessed_or_not_sent_is_refused(token, tmp_path):
    with pytest.raises(UsageError, match="VISTA_TOKEN: the token must be 16"):
        Access.of(config(), {"VISTA_TOKEN": token})
    (tmp_path / "token").write_text(token)
    with pytest.raises(UsageError, match="--token-file"):
        Access.of(config(token_file=str(tmp_path / "token")), {})
    with pytest.raises(UsageError, match=r"--token-file .*No such file"):
        Access.of(config(token_file=str(tmp_path / "missing")), {})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:1", "LOCALHOST:80"])
def test_without_a_token_only_names_of_this_machine_are_answered(host):
    assert OPEN.refusal("GET", {"host": host}) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "localhost@evil"]
)
def test_dns_rebinding_is_refused(host):
    assert OPEN.refusal("GET", {"host": host}) == Refusal(421, "this server answers to localhost and 127.0.0.1 only")


@pytest.mark.parametrize("access", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_requests_of_other_pages_are_refused(access, headers):
    assert access.refusal("POST", {"host": "localhost:8080", **headers}).status == 403


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}],
    ids=str,
)
def test_requests_of_the_page_and_of_programs_are_answered(headers):
    assert OPEN.refusal("POST", {"host": "localhost:8080", **headers}) is None


def test_a_server_refuses_foreign_hosts_and_origins(client):
    assert client.get("/healthz", Host="evil.example").status == 421
    assert client.search(text="x", headers={"Origin": "https://evil.example"}).status == 403
    assert client.search(text="x", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert client.search(text="x", headers={"Origin": client.url}).status == 200
    assert "access-control-allow-origin" not in client.search(text="x").headers


@pytest.mark.parametrize(
    "path", ["/api/table", "/api/filters", "/api/image?id=x", "/metrics", "/docs", "/openapi.json", "/static/app.js"]
)
def test_without_the_token_nothing_is_told(guarded, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": COOKIE}):
        answer = guarded.request("GET", path, headers=headers)
        assert answer.status == 401
        assert TABLE not in answer.body.decode()
    assert guarded.search(text="x").status == 401


def test_the_token_is_sent_as_bearer(guarded):
    program = Client(guarded.url, {"Authorization": f"Bearer {TOKEN}"})
    assert program.search(text="x").status == 200
    assert program.get("/metrics").status == 200
    assert guarded.get("/healthz").status == 200, "for a probe, which has no token"


def test_a_browser_gets_a_cookie_for_the_token(guarded):
    start = guarded.get("/")
    assert (start.status, start.headers["location"]) == (303, "/login")
    assert guarded.get("/login").status == 200
    kind, body = multipart({"token": "wrong-horse-battery-staple"})
    assert guarded.request("POST", "/login", body, {"Content-Type": kind}).status == 401
    kind, body = multipart({"token": TOKEN})
    refused = guarded.request("POST", "/login", body, {"Content-Type": kind, "Origin": "https://evil.example"})
    assert refused.status == 403
    answer = guarded.request("POST", "/login", body, {"Content-Type": kind})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    browser = Client(guarded.url, {"Cookie": f"other=1; {cookie.partition(';')[0]}"})
    assert browser.search(text="x").status == 200
    assert browser.search(text="x", headers={"Origin": "https://evil.example"}).status == 403


def test_behind_a_proxy_the_name_of_the_server_is_the_proxys(guarded):
    program = Client(guarded.url, {"Authorization": f"Bearer {TOKEN}", "Host": "search.example.com"})
    assert program.get("/api/table").status == 200
