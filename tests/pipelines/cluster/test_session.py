"""The Ray session: workers can import this code, and what Ray says doesn't reach the user."""

import operator
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import ray

from pipelines.cluster.resources import share_out
from pipelines.cluster.session import (
    cluster_now,
    cores,
    on_a_worker,
    quiet_stderr,
    silence_ray_data,
    start_ray,
    variables,
    worker_environment,
)

ROOT = Path(__file__).resolve().parents[3]
START = """
import logging
logging.basicConfig(level=logging.INFO)
from pipelines.cluster.session import on_a_worker, start_ray
start_ray(patience=30)
on_a_worker(print)
"""
SAY = "import os; print(os.environ['VISTA_TEST_SET'], os.environ['VISTA_TEST_UNSET'])"


def test_workers_get_this_repository_before_other_paths(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert worker_environment() == {"env_vars": {"PYTHONPATH": str(ROOT)}}
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert worker_environment() == {"env_vars": {"PYTHONPATH": f"{ROOT}{os.pathsep}/somewhere"}}


def test_a_submitted_job_has_its_own_environment(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert worker_environment() == {}


def test_variables_are_there_for_what_is_started_meanwhile_and_then_as_before(monkeypatch):
    monkeypatch.setenv("VISTA_TEST_SET", "before")
    monkeypatch.delenv("VISTA_TEST_UNSET", raising=False)
    with variables({"VISTA_TEST_SET": "now", "VISTA_TEST_UNSET": "too"}):
        said = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["now", "too"]
    assert (os.environ["VISTA_TEST_SET"], os.environ.get("VISTA_TEST_UNSET")) == ("before", None)


def test_native_code_is_quiet_and_standard_error_is_back_afterwards(capfd):
    with quiet_stderr():
        os.write(2, b"of native code\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_a_session_that_is_there_is_joined_and_ray_data_is_quiet(ray_cluster):
    before = ray.get_runtime_context().gcs_address
    start_ray()
    assert ray.get_runtime_context().gcs_address == before
    context = ray.data.DataContext.get_current()
    assert not context.enable_progress_bars
    assert not context.print_on_execution_start
    assert context.wait_for_min_actors_s > 60


class Same:
    """An encoder that returns what it gets."""

    def __call__(self, batch):
        return batch


def test_a_night_that_is_smaller_than_its_pool_of_encoders_is_quiet(ray_cluster):
    with warnings.catch_warnings(record=True) as warned:
        silence_ray_data()
        two = ray.data.ActorPoolStrategy(min_size=2, max_size=2)
        ray.data.range(1, override_num_blocks=1).map_batches(Same, compute=two, num_cpus=0.1).materialize()
    assert [str(each.message) for each in warned if "concurrent" in str(each.message)] == []


def test_a_ray_that_was_killed_is_not_waited_for():
    """It leaves its address in a file, in which Ray believes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.create_server(("127.0.0.1", 0)) as closed_soon:
        address = "{}:{}".format(*closed_soon.getsockname())
        Path(folder, "ray").mkdir()
        Path(folder, "ray", "ray_current_cluster").write_text(address)
        closed_soon.close()
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", START],
            env=environment | {"RAY_TMPDIR": folder},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 0, done.stderr
    assert f"the Ray that was started at {address} is gone; starting another one" in done.stderr
    assert "has not answered" not in done.stderr


def test_a_worker_runs_a_function_in_another_process(ray_cluster):
    assert on_a_worker(os.getpid) != os.getpid()
    assert on_a_worker(operator.add, 3, 5) == 8


def test_the_cluster_is_as_large_as_ray_says(ray_cluster):
    cluster = cluster_now()
    assert (cluster.cpus, cluster.nodes) == (ray.cluster_resources()["CPU"], 1)
    assert share_out(cluster, "cpu", None).cpus <= cluster.cpus
    assert cores() >= 1
