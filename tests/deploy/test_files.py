"""The files of deploy/ are valid by the schemas of what reads them, and fit this project. No cluster is asked."""

from __future__ import annotations

import ast
import copy
import gzip
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from pipelines.embed.config import EmbedConfig
from pipelines.options import parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KUBERNETES = "1.33"  # whose schemas are asked
# The schema of KubeRay 1.7's resource RayJob, without its descriptions: Apache License 2.0, ray-project/kuberay.
RAY_JOB_SCHEMA = Path(__file__).parent / "rayjob-v1.json.gz"


def strict(schema: Any) -> Any:
    """A schema of Kubernetes that allows no other fields than it names: it drops them, which hides misspellings."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(each) for name, each in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not is_open and schema.get("type") == "object":
        found["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


@pytest.fixture(scope="module")
def schema():
    found = strict(json.loads(gzip.decompress(RAY_JOB_SCHEMA.read_bytes())))
    found["properties"]["metadata"] = {"type": "object"}  # the schema leaves it to Kubernetes
    return found


@pytest.fixture
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kuberay/rayjob.yaml").read_text())


NIGHTLY = list(yaml.safe_load_all((DEPLOY / "kuberay/nightly.yaml").read_text()))


def pods(ray_job: dict[str, Any]) -> dict[str, Any]:
    """The specification of each kind of pod."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = {each["groupName"]: each["template"]["spec"] for each in cluster["workerGroupSpecs"]}
    [cron] = [each for each in NIGHTLY if each["kind"] == "CronJob"]
    return groups | {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "submitter": ray_job["spec"]["submitterPodTemplate"]["spec"],
        "nightly": cron["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    }


def test_kuberay_accepts_the_job(schema, ray_job):
    jsonschema.validate(ray_job, schema)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda job: job["spec"].update(entrypont="python"),
        lambda job: job["spec"].update(ttlSecondsAfterFinished="an hour"),
        lambda job: job["spec"]["rayClusterSpec"].update(authOptions={"mode": "password"}),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].pop("template"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplica=1),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"].update(node="a"),
    ],
)
def test_kuberay_refuses_a_mistake(schema, ray_job, mistake):
    wrong = copy.deepcopy(ray_job)
    mistake(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("resource", NIGHTLY, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_kubernetes_accepts_the_night(resource):
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_pods_are_valid_and_confined(ray_job):
    for name, spec in pods(ray_job).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_the_account_of_the_night_may_do_what_its_script_does_and_no_more():
    [role] = [each for each in NIGHTLY if each["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "delete"]}]


def test_the_night_runs_the_job_that_it_is_given():
    [cron] = [each for each in NIGHTLY if each["kind"] == "CronJob"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    spec = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    _, script, given = container["command"]
    assert (DEPLOY / "kuberay" / script).is_file()
    [mount] = container["volumeMounts"]
    assert given == f"{mount['mountPath']}/rayjob.yaml"


def test_the_cluster_of_the_job_asks_for_a_token_and_has_the_version_of_ray_that_is_installed(ray_job):
    cluster = ray_job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    major, minor, *_ = importlib.metadata.version("ray").split(".")
    assert cluster["rayVersion"].startswith(f"{major}.{minor}.")


def test_nothing_costs_money_before_and_after_the_run(ray_job):
    assert ray_job["spec"]["shutdownAfterJobFinishes"] is True
    assert all(
        each["minReplicas"] == each["replicas"] == 0 for each in ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    )


def test_the_object_store_of_each_node_has_shared_memory(ray_job):
    for name in ("head", "encode", "decode"):
        spec = pods(ray_job)[name]
        [memory] = [each["name"] for each in spec["volumes"] if each.get("emptyDir", {}).get("medium") == "Memory"]
        [container] = spec["containers"]
        assert {"name": memory, "mountPath": "/dev/shm"} in container["volumeMounts"]


def options_of(command: str, settings: Path) -> EmbedConfig:
    """The options of the command `vista embed`, as it reads them."""
    words = shlex.split(command.replace("/etc/vista/products.toml", str(settings)))
    start = words.index("vista")
    assert words[start + 1] == "embed"
    return parse(EmbedConfig, words[start + 2 :])


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "products.toml"
    file.write_text('source = "s3://bucket/catalog/"\ndb = "s3://bucket/vectors"\ntable = "products"\n')
    return file


def test_the_job_starts_an_embedding_that_the_command_understands(ray_job, settings):
    command = ray_job["spec"]["entrypoint"]
    assert command.startswith("exec "), "SIGTERM reaches only the first process of a container"
    assert options_of(command, settings).table == "products"


def test_the_dag_compiles_and_starts_an_embedding_that_the_command_understands(settings):
    tree = ast.parse((DEPLOY / "airflow/vista_products.py").read_text())
    [command] = [
        keyword.value.value for call in ast.walk(tree) if isinstance(call, ast.Call) for keyword in call.keywords
        if keyword.arg == "bash_command"
    ]  # fmt: skip
    assert options_of(command, settings).table == "products"


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def test_the_linter_of_dockerfiles_finds_nothing():
    linter = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_made_of_files_that_are_there_and_no_others_go_to_the_build():
    allowed = {
        line.removeprefix("!")
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE):
        copied |= {word for word in line.split()[:-1] if not word.startswith("--")}
    assert copied == allowed
    assert all((ROOT / each).exists() for each in copied)


def test_the_image_has_a_python_that_the_project_takes_and_a_user_by_number():
    python = re.search(r"^ARG PYTHON=(.+)$", dockerfile(), re.MULTILINE).group(1)
    assert python in SpecifierSet(PROJECT["project"]["requires-python"])
    stages = re.split(r"^FROM ", dockerfile(), flags=re.MULTILINE)
    [base] = [stage for stage in stages if " AS base\n" in stage]
    assert re.search(r"^USER \d+$", base, re.MULTILINE)
    assert {stage.split()[-1] for stage in re.findall(r"^FROM base AS (\w+)$", dockerfile(), re.MULTILINE)} == {
        "cpu",
        "cuda",
    }
