"""Jobs are submitted to a cluster that asks for a token, as docs/operations.md says, and to no other one."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance
import pytest

from pipelines.sample_catalog import write_catalog
from tests.autoscaling import MEMORY, ROOT, kill, wait_until_ready
from tests.s3 import free_ports

RAY = str(Path(sys.executable).parent / "ray")


def with_token(token: str) -> dict[str, str]:
    return os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


@contextmanager
def head(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A cluster of one node. Yields the addresses of its dashboard, and for drivers."""
    port, dashboard, agent, grpc = free_ports(4)
    options = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=4", f"--object-store-memory={MEMORY}"]
    options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--disable-usage-stats"]
    options += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
    options += [f"--temp-dir={tempfile.mkdtemp(prefix='ray', dir='/tmp')}"]  # see tests.autoscaling
    variables = environment | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    with (folder / "head.log").open("wb") as log:
        words = [RAY, "start", "--head", "--block", *options]
        with subprocess.Popen(words, env=variables, stdout=log, stderr=log, start_new_session=True) as process:
            try:
                wait_until_ready(process, folder / "head.log")
                yield f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}"
            finally:
                kill(process.pid)


@pytest.mark.timeout(300)
def test_a_job_is_submitted_with_the_token_and_refused_without(tmp_path):
    catalog, token = write_catalog(tmp_path / "catalog"), secrets.token_hex(32)
    options = ["--source", str(catalog), "--db", str(tmp_path / "db"), "--table", "shapes"]
    runtime = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}})

    def submit(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        words = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--runtime-env-json", runtime]
        words += ["--", sys.executable, "jobs/embed_corpus.py", *options]
        return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    with head(tmp_path, with_token(token)) as (address, of_drivers):
        refused = submit(address, with_token(secrets.token_hex(32)))
        assert refused.returncode
        assert "token" in refused.stderr.lower(), refused.stderr
        assert not (tmp_path / "db").exists()
        wrong = with_token(secrets.token_hex(32)) | {
            "RAY_ADDRESS": of_drivers,
            "RAY_gcs_rpc_server_connect_timeout_s": "1",
        }
        words = [sys.executable, "jobs/embed_corpus.py", *options]
        alone = subprocess.run(words, env=wrong, cwd=ROOT, capture_output=True, text=True, check=False)
        assert alone.returncode == 2
        assert alone.stderr.splitlines()[-1].endswith(
            "asks for a token, and refused what it got: set RAY_AUTH_MODE to `token`, and RAY_AUTH_TOKEN"
        )
        assert "Traceback" not in alone.stderr
        done = submit(address, with_token(token))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read 336: written 335, rewritten 0, unchanged 0, rejected 1" in done.stdout
    assert lance.dataset(str(tmp_path / "db" / "shapes.lance"), version="published").count_rows() == 335
