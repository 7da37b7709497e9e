"""cluster.yaml is what `ray up` takes, and fits this project."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.resources import Cluster, share_out

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_takes_it(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


@pytest.mark.parametrize(
    "mistake", [{"max_worker": 3}, {"provider": {}}, {"available_node_types": {"head": {"CPU": 1}}}]
)
def test_a_mistake_would_be_noticed(config, mistake):
    with pytest.raises((ValidationError, ValueError, KeyError)):
        validate_config(prepare_config(config | mistake))


def test_the_image_has_the_ray_and_the_python_that_the_project_asks_for(config):
    version, python, _ = config["docker"]["image"].partition(":")[2].split("-")
    asked = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
    assert version in asked["ray"]
    assert importlib.metadata.version("ray") == version
    assert f"{python[2]}.{python[3:]}" in SpecifierSet(PROJECT["requires-python"])


def test_the_nodes_get_this_project(config):
    [(place, folder)] = config["file_mounts"].items()
    assert (ROOT / folder / "pyproject.toml").exists()
    assert any(command == f"pip install --quiet {place}" for command in config["setup_commands"])


def test_there_are_cpu_and_gpu_workers_and_the_head_does_no_work(config):
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["cpu_worker"]["max_workers"] > 0
    assert types["gpu_worker"]["min_workers"] > 0, "encode actors wait for a GPU; without one at the start none is seen"
    assert types["gpu_worker"]["node_config"]["InstanceType"].startswith(("g", "p"))
    workers = [name for name in types if name != "head"]
    assert sum(types[name]["max_workers"] for name in workers) <= config["max_workers"]
    least = types["gpu_worker"]["resources"]
    share_out(Cluster(least["CPU"], least["GPU"], nodes=1), "auto", None)
