"""The script of the night against an API server: it waits for the run, and ends as the run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/kuberay/nightly.py"
JOBS = "/apis/ray.io/v1/namespaces/shop/rayjobs"
# The script takes server, account and interval as arguments of `main`.
START = (
    "import runpy, sys; from pathlib import Path; script = runpy.run_path(sys.argv[1]); "
    "sys.exit(script['main'](Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), 0.05))"
)


class Server(ThreadingHTTPServer):
    """An API server whose answers to GET are given, the last one again and again."""

    def __init__(self, answers, creating=201):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.creating, self.requests, self.asked = list(answers), creating, [], threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path, body, self.headers["Authorization"]))
        self.answer(self.server.creating, {"message": "no quota is left"} if self.server.creating >= 400 else body)

    def do_GET(self):
        answers = self.server.answers
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.requests.append(("GET", self.path))
        if isinstance(status, int):
            self.answer(status, {})
        else:
            self.answer(200, {"status": status})
        self.server.asked.set()

    def do_DELETE(self):
        self.server.requests.append(("DELETE", self.path))
        self.answer(200, {})

    def answer(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def night(tmp_path):
    """Starts the script against a server."""
    (tmp_path / "namespace").write_text("shop\n")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "rayjob.yaml").write_text("kind: RayJob\nmetadata: {name: vista-products}\nspec: {entrypoint: echo}\n")
    servers, processes = [], []

    def start(answers, creating=201):
        server = Server(answers, creating)
        servers.append(server)
        command = [sys.executable, "-c", START, str(SCRIPT), str(tmp_path / "rayjob.yaml"), server.url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return server, process

    yield start
    for process in processes:
        process.kill()
        process.wait()
    for server in servers:
        server.shutdown()
        server.server_close()


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 3"}


def test_it_creates_the_job_under_a_name_of_its_own_and_waits_until_it_has_succeeded(night):
    server, process = night([{}, RUNNING, RUNNING, DONE])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    method, path, body, authorization = server.requests[0]
    assert (method, path, authorization) == ("POST", JOBS, "Bearer secret")
    name = body["metadata"]["name"]
    assert name.startswith("vista-products-20") and body["spec"] == {"entrypoint": "echo"}
    assert set(server.requests[1:]) == {("GET", f"{JOBS}/{name}")}
    assert said.count("Running, RUNNING") == 1 and "Complete, SUCCEEDED" in said


def test_it_fails_if_the_run_does_and_says_why(night):
    _, process = night([RUNNING, FAILED])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Failed, FAILED, AppFailed, exit code 3" in said


def test_a_job_that_is_refused_is_an_error_with_the_reason(night):
    server, process = night([DONE], creating=403)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was refused" in said and "no quota is left" in said
    assert len(server.requests) == 1


def test_a_server_that_fails_for_a_while_is_asked_again(night):
    _, process = night([RUNNING, 503, 500, DONE])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_a_job_that_somebody_deleted_is_an_error(night):
    _, process = night([RUNNING, 404])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "is gone: somebody deleted it" in said


def test_a_night_that_is_stopped_stops_its_run(night):
    server, process = night([RUNNING])
    assert server.asked.wait(60)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped: deleting vista-products-" in said
    assert server.requests[-1][0] == "DELETE"
