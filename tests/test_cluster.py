"""cluster.yaml is valid for `ray up`, and fits this project. No request goes to AWS."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.cluster.resources import Cluster, share_out

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORES_PER_GPU = 25  # for an H200, as docs/performance.md says


@pytest.fixture
def config() -> dict[str, Any]:
    """The file as `ray up` prepares it."""
    return prepare_config(yaml.safe_load(TEXT))


def workers(config: dict[str, Any]) -> dict[str, dict]:
    types = config["available_node_types"]
    return {name: kind for name, kind in types.items() if name != config["head_node_type"]}


def resources(config: dict[str, Any], count: str, resource: str) -> int:
    """Of all workers together, at their `min_workers` or `max_workers`."""
    return sum(kind[count] * kind["resources"].get(resource, 0) for kind in workers(config).values())


def test_ray_accepts_it(config):
    validate_config(config)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda config: config.update(worker_setup_comands=[]),
        lambda config: config["available_node_types"]["encode"].update(max_worker=1),
        lambda config: config["available_node_types"]["encode"].update(min_workers="1"),
        lambda config: config["available_node_types"]["encode"].pop("resources"),
        lambda config: config.update(idle_timeout_minutes="ten"),
        lambda config: config.update(head_node_type="nobody"),
        lambda config: config["available_node_types"]["encode"].update(min_workers=9),
    ],
)
def test_ray_refuses_a_mistake(config, mistake):
    wrong = copy.deepcopy(config)
    mistake(wrong)
    with pytest.raises((ValidationError, ValueError)):
        validate_config(wrong)


def test_the_head_runs_no_tasks_and_is_no_spot_node(config):
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_resources_agree_with_the_instance_types(config):
    """In these families, Nxlarge has 4 N virtual cores."""
    for kind in workers(config).values():
        family, size = re.fullmatch(r"(\w+)\.(\d*)xlarge", kind["node_config"]["InstanceType"]).groups()
        assert kind["resources"]["CPU"] == 4 * int(size or 1)
        assert ("GPU" in kind["resources"]) == family.startswith(("g", "p"))


def test_nothing_but_the_head_runs_without_a_job(config):
    assert {kind["min_workers"] for kind in workers(config).values()} == {0}


def test_the_first_node_of_each_kind_can_start_a_job(config):
    """A job waits for one GPU, and divides the resources that the cluster has then."""
    encode = workers(config)["encode"]["resources"]
    shared = share_out(Cluster(encode["CPU"], encode["GPU"], 1, autoscales=True), "cuda", None)
    assert (shared.device, shared.actors) == ("cuda", 1)


def test_there_are_enough_cores_for_each_gpu(config):
    cores, gpus = resources(config, "max_workers", "CPU"), resources(config, "max_workers", "GPU")
    assert cores / gpus >= CORES_PER_GPU
    assert f"{CORES_PER_GPU} cores" in (ROOT / "docs" / "performance.md").read_text()
    assert sum(kind["max_workers"] for kind in workers(config).values()) <= config["max_workers"]


def test_the_first_node_of_each_kind_is_on_demand_and_others_are_spot_nodes(config):
    """Ray's autoscaler takes the type of the highest priority, until it has as many of it as it may have."""
    kinds = workers(config)
    spot = {name for name, kind in kinds.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"encode-spot", "decode-spot"}
    for name in spot:
        cheap, sure = kinds[name], kinds[name.removesuffix("-spot")]
        assert cheap["resources"] == sure["resources"]
        assert cheap["node_config"] == sure["node_config"] | {"InstanceMarketOptions": {"MarketType": "spot"}}
        assert sure["priority"] > cheap.get("priority", 0)
        assert sure["max_workers"] == 1


def test_profiles_give_access_to_s3_and_no_key_is_in_the_file(config):
    """The head has its own profile, since it launches nodes."""
    profiles = {name: kind["node_config"]["IamInstanceProfile"] for name, kind in workers(config).items()}
    head = config["available_node_types"][config["head_node_type"]]["node_config"]["IamInstanceProfile"]
    assert head not in profiles.values()
    assert not re.search(r"AKIA|aws_secret|AWS_SECRET", TEXT)


def test_the_copied_files_are_those_that_pip_installs(config):
    copied = {remote.removeprefix("~/vista/"): local for remote, local in config["file_mounts"].items()}
    assert all(remote == local and (ROOT / local).exists() for remote, local in copied.items())
    packages = {pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert set(copied) == {"pyproject.toml", PROJECT["project"]["readme"], *packages}


@pytest.mark.parametrize("setup", ["head_setup_commands", "worker_setup_commands"])
def test_nodes_install_this_project_with_a_python_that_it_supports(config, setup):
    commands = config[setup]
    [install] = [command for command in commands if "pip install" in command]
    python, *arguments = install.split()
    assert {"~/vista", "boto3"} <= set(arguments), "the project, and the library with which Ray launches nodes"
    [(version, place)] = {pair for command in commands for pair in re.findall(r"python(3\.\d+) -m venv (\S+)", command)}
    assert python == f"{place}/bin/pip"
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])
    assert any(f'PATH="$HOME/{place.removeprefix("~/")}/bin:$PATH"' in command for command in commands)


def test_all_nodes_have_the_same_image(config):
    """Ray needs the same version of Python on all nodes."""
    images = {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()}
    assert len(images) == 1


def test_the_dashboard_listens_on_the_head_only(config):
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_the_documentation_submits_jobs_in_the_same_way(config):
    operations = (ROOT / "docs" / "operations.md").read_text()
    variables = {"AWS_REGION": config["provider"]["region"], "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    environment = f"--runtime-env-json '{json.dumps({'env_vars': variables})}'"
    for text in (TEXT, operations):
        assert "ray job submit --address http://" in text
        assert "--working-dir ." in text
        assert environment in text
        assert "-- python jobs/embed_corpus.py" in text
        assert "ray up cluster.yaml" in text
