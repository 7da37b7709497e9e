"""A run on a cluster without nodes gets them from an autoscaler, or says within a minute that there are none."""

from __future__ import annotations

import subprocess
import sys

import lance
import pytest

from pipelines.sample_catalog import write_catalog
from tests.autoscaling import MEMORY, ROOT, autoscaling

GPU_NODES = {"encode": {"resources": {"CPU": 2, "GPU": 1, "object_store_memory": MEMORY}, "max_workers": 1}}
CPU_NODES = {"decode": {"resources": {"CPU": 2, "object_store_memory": MEMORY}, "max_workers": 1}}
ON_CPU = ROOT / "tests" / "pipelines" / "cluster" / "encodes_on_cpu.py"
ASK = """
import sys
from pipelines.cluster.scaling import cluster_for
from pipelines.cluster.session import start_ray

start_ray()
try:
    print(cluster_for("cuda", nobody_comes=2))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


pytestmark = pytest.mark.timeout(400)  # a cluster is started, which takes long on a busy machine


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_waits_for_its_first_gpu(tmp_path):
    catalog = write_catalog(tmp_path / "catalog")
    options = ["--source", str(catalog), "--db", str(tmp_path / "db"), "--table", "shapes", "--report", "none"]
    options += ["--device", "cuda", "--num-actors", "2", "--transport-rows", "64"]
    with autoscaling(tmp_path, GPU_NODES, late_seconds=3) as environment:
        ended = run([sys.executable, str(ON_CPU), *options], environment)
    assert ended.returncode == 0, ended.stderr
    assert "the Ray cluster has no GPU yet; its autoscaler is asked for a node" in ended.stderr
    assert "1 GPU encode actor, up to 2 as nodes join" in ended.stderr
    assert lance.dataset(str(tmp_path / "db" / "shapes.lance"), version="published").count_rows() > 0


def test_a_run_for_which_no_gpu_comes_says_so(tmp_path):
    with autoscaling(tmp_path, CPU_NODES) as environment:
        ended = run([sys.executable, "-c", ASK], environment)
    assert ended.returncode == 1
    assert (
        "UsageError: --device cuda: the Ray cluster has no GPU, and its autoscaler brought none in 2 s" in ended.stderr
    )
    assert "max_workers" in ended.stderr
