"""Whoever VISTA_NOTIFY names hears of failures, and of nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs import run
from jobs.vista import main
from pipelines.current_run import CURRENT
from pipelines.notify import notify
from vista_core import UsageError, VistaError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """What a command hears."""
    file = tmp_path / "heard"
    monkeypatch.setenv("VISTA_NOTIFY", f"cat > {file}")
    return lambda: json.loads(file.read_text()) if file.exists() else None


def failing(error):
    def job():
        raise error

    return job


@pytest.mark.parametrize(("error", "code"), [(VistaError("the store is full"), 1), (UsageError("no such table"), 2)])
def test_a_command_hears_of_a_failure(heard, monkeypatch, error, code):
    monkeypatch.setattr(CURRENT, "id", "20260101T000000Z")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vista", "embed", "--source", "https://me:secret@host/a.parquet"])
    assert run(failing(error)) == code
    said = heard()
    assert said["text"] == f"vista failed with exit code {code}: {error}"
    assert (said["message"], said["exit_code"], said["run"]) == (str(error), code, "20260101T000000Z")
    assert said["command"].startswith("vista embed --source") and "secret" not in said["command"]


@pytest.mark.parametrize(
    ("error", "code"), [(ZeroDivisionError("by zero"), 1), (SystemExit(2), 2), (SystemExit(0), None)]
)
def test_a_command_hears_of_what_nobody_expected_and_of_bad_syntax_but_not_of_help(heard, error, code):
    with pytest.raises(type(error)):
        run(failing(error))
    assert (heard() or {}).get("exit_code") == code


def test_a_command_hears_of_a_mistyped_one(heard):
    assert main(["embde", "--db", "s3://bucket/vectors"]) == 2
    assert (heard()["exit_code"], heard()["message"]) == (2, "there is no command 'embde'")


@pytest.mark.parametrize(("by", "code", "heard_code"), [(None, 0, None), ("SIGINT", 130, None), ("SIGTERM", 143, 143)])
def test_who_sits_there_needs_no_message(heard, by, code, heard_code):
    """A process of its own, since signals change it for good."""
    what = "None" if by is None else f"os.kill(os.getpid(), signal.{by})"
    program = f"import os, signal, sys, jobs; sys.exit(jobs.run(lambda: {what}))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == code
    assert (heard() or {}).get("exit_code") == heard_code


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.heard = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hook(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.status, server.heard = 200, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("VISTA_NOTIFY", f"http://127.0.0.1:{server.server_port}/T0/secret")
    yield server
    server.shutdown()
    server.server_close()


def test_a_web_address_hears_of_a_failure(hook):
    assert run(failing(VistaError("gates failed"))) == 1
    assert hook.heard["message"] == "gates failed"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("exit 7", "the command ended with exit code 7"),
        ("sleep 60", "the command did not end within 0.2 s"),
        ("http://127.0.0.1:9/secret", "refused"),
        ("http://[secret", "ValueError"),
    ],
)
def test_what_cannot_be_told_is_a_warning_without_the_secret(monkeypatch, caplog, target, said):
    monkeypatch.setenv("VISTA_NOTIFY", target)
    notify(1, "it failed", seconds=0.2)
    assert f"VISTA_NOTIFY could not be told of the failure: {said}" in caplog.text.replace(
        "[Errno 111] Connection ", ""
    )
    assert "secret" not in caplog.text


def test_an_answer_that_is_an_error_is_a_warning(hook, caplog):
    hook.status = 404
    notify(1, "it failed")
    assert "the server answered 404" in caplog.text
