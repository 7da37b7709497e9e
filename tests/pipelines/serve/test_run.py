"""The command: where it listens, how it says so, and how it ends."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipelines.serve.config import ServeConfig, ServeLimits
from pipelines.serve.run import prepare
from tests.pipelines.serve.client import WAIT_SECONDS, Client, multipart
from tests.pipelines.serve.shapes import TABLE, VERSION
from vista_core import UsageError

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = re.compile(rf"serving shapes, version {VERSION}, vista-tiny, at (http://\S+/) \(Ctrl-C stops\)")


@contextmanager
def started(db: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The command as a process, once it says where it listens."""
    command = [sys.executable, str(ROOT / "jobs" / "serve.py"), "--db", db, "--table", TABLE, "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "VISTA_TOKEN"}
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stderr.readline()
            address = ADDRESS.search(line)
            assert address, line + process.stderr.read()
            yield process, Client(address[1].rstrip("/"))
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_the_requests_that_are_under_way(db, number, code):
    with started(db, "--port", "0") as (process, client):
        assert client.search(text="a red circle").status == 200
        # A request whose body is not complete is under way.
        kind, body = multipart({"text": "a red circle"})
        connection = http.client.HTTPConnection(client.place, timeout=WAIT_SECONDS)
        connection.putrequest("POST", "/api/search")
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:20])
        while client.get("/metrics").status != 200:
            pass
        process.send_signal(number)
        line = process.stderr.readline()
        assert number.name in line
        connection.send(body[20:])
        assert connection.getresponse().status == 200
        connection.close()
        assert process.wait(WAIT_SECONDS) == code
        rest = process.stderr.read()
        assert f"stopped by {number.name}" in rest
        assert "Traceback" not in rest
        with pytest.raises(ConnectionRefusedError):
            client.get("/healthz")


def test_a_port_in_use_is_one_clear_sentence(db):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: another program listens there; choose another"):
            prepare(ServeConfig(db, TABLE, port=port), ServeLimits())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "no.such.host.invalid"}, "--host no.such.host.invalid"),
        ({"host": "192.0.2.1"}, "--host 192.0.2.1"),
        ({"column": "nope"}, "nope"),
        ({"table": "nope"}, "there is no table nope"),
        ({"model": "bge-visualized-m3"}, "was embedded with another encoder"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_loaded(db, options, said, monkeypatch):
    monkeypatch.setenv("VISTA_TOKEN", "correct-horse-battery-staple")
    with pytest.raises(UsageError, match=said):
        prepare(ServeConfig(**{"db": db, "table": TABLE, "port": 0, "device": "cpu", **options}), ServeLimits())


@pytest.mark.parametrize(("option", "value"), [("port", 65536), ("port", -1), ("allow_prefix", ("img.example.com",))])
def test_options_that_cannot_work_are_refused(option, value):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}"):
        ServeConfig("db", TABLE, **{option: value})


def test_it_listens_on_this_machine_alone(db):
    prepared = prepare(ServeConfig(db, TABLE, port=0, device="cpu"), ServeLimits())
    with prepared.listener:
        assert prepared.listener.getsockname()[0] == "127.0.0.1"
        assert urlsplit(prepared.url).hostname == "127.0.0.1"


def test_it_can_listen_on_ipv6(db):
    try:
        prepared = prepare(ServeConfig(db, TABLE, host="::1", port=0, device="cpu"), ServeLimits(poll_seconds=0.05))
    except UsageError as error:
        pytest.skip(str(error))
    thread = threading.Thread(target=prepared.run)
    thread.start()
    try:
        connection = http.client.HTTPConnection("::1", urlsplit(prepared.url).port, timeout=WAIT_SECONDS)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    finally:
        prepared.server.should_exit = True
        thread.join(WAIT_SECONDS)
