"""A run that a signal ends commits what is encoded, lets go of the table, and is continued by the same command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import embed
from pipelines.tables.dataset import published
from tests.chaos.running import arguments, environment, start

ROWS, GROUP = 600, 100
# In a container of its own user id: no entry in /etc/passwd, no HOME, and a working directory that is read-only for it.
NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env", "--unset=HOME", "--chdir=/proc"]


@pytest.fixture
def source(tmp_path) -> str:
    path = tmp_path / "texts.parquet"
    rows = {"id": [f"{n:03}" for n in range(ROWS)], "text": [f"number {n}" for n in range(ROWS)]}
    pq.write_table(pa.table(rows), path, row_group_size=GROUP)
    return str(path)


def last_run(db: str) -> dict:
    return max(lance.dataset(f"{db}/t_runs.lance").to_table().to_pylist(), key=lambda run: run["run"])


def assert_stopped(db: str, output: str, name: str) -> None:
    """The run committed something, published nothing, released the lease, and says what is done and left."""
    table = lance.dataset(f"{db}/t.lance")
    said = re.search(rf"stopped by {name}: (\d+) rows committed, about (\d+) left; the same command continues", output)
    assert said, output
    assert "Traceback" not in output
    assert 0 < table.count_rows() == int(said[1]) < ROWS
    assert int(said[1]) + int(said[2]) == ROWS
    assert published(table) is None
    assert json.loads(table.config()["vista.lease"])["ended"]
    run = last_run(db)
    assert (run["status"], run["written"], run["error"]) == ("stopped", int(said[1]), said[0])


def test_a_stopped_run_commits_what_is_encoded_and_is_continued(ray_cluster, source, tmp_path):
    db = str(tmp_path / "db")
    command = [sys.executable, "-m", "tests.chaos.points", "int:after rows arrived", "1", "--"]
    options = [*arguments(source, db, "t"), "--commit-seconds", "3600"]  # only the stop commits
    ended = start([*command, *options], environment(ray.get_runtime_context().gcs_address)).end()
    assert ended.code == 128 + signal.SIGINT, ended.output
    assert_stopped(db, ended.output, "SIGINT")
    summary = embed(EmbedConfig(source, db, "t"))
    assert summary.counts.unchanged + summary.counts.written == ROWS
    assert summary.counts.unchanged > 0
    assert sorted(lance.dataset(f"{db}/t.lance", version="published").to_table()["id"].to_pylist()) == [
        f"{n:03}" for n in range(ROWS)
    ]


def test_a_run_with_its_own_ray_is_closed_to_others_and_stopped_as_a_group_without_a_home(source, tmp_path):
    """What a container and `timeout` do to a run, at once: see tests/pipelines/embed/alone.py."""
    if shutil.which("unshare") is None or subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespace with another user id (unshare --user --map-user)")
    db, temporary = str(tmp_path / "db"), Path(tempfile.mkdtemp())  # a short path, since Ray has sockets below it
    (temporary / "ray").mkdir(0o500)  # as if another user's Ray had been there first
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    alone = {"RAY_ADDRESS": "local", "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "TMPDIR": str(temporary)}
    command = [*NOBODY, sys.executable, "-m", "tests.pipelines.embed.alone", "--source", source, "--db", db]
    job = subprocess.run(
        [*command, "--table", "t", "--commit-seconds", "3600"],
        env=here | alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    shutil.rmtree(temporary)
    assert job.returncode == 128 + signal.SIGTERM, job.stdout
    assert_stopped(db, job.stdout, "SIGTERM")
    listening = re.findall(r"^listens: (\S+) (.*)$", job.stdout, re.MULTILINE)
    assert len(listening) > 5, job.stdout
    assert all(re.fullmatch(r"(::ffff:)?127\.0\.0\.1", address) for address, _ in listening), listening
    assert "without the token: AuthenticationError" in job.stdout
    assert "runtime environment: {}" in job.stdout, "the workers that Ray started in advance are of no use"
