"""Clusters that grow: waits for the first nodes that an autoscaler adds."""

from __future__ import annotations

import logging
import time
from typing import Final

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status

from pipelines.cluster.resources import Cluster
from pipelines.cluster.session import cluster_now
from pipelines.cluster.waiting import PATIENCE_SECONDS, saying_why
from vista_core import UsageError

LEAST_CPUS: Final = 2  # for one encode actor on a CPU, and one task of each stage
NOBODY_COMES_SECONDS: Final = 45.0  # with this, a run that can't start ends within a minute
NODE_SECONDS: Final = 1800.0  # for a cloud to find a GPU, start the machine, and pull an image of several GB
LOOK_SECONDS: Final = 0.5
LACKING: Final = {"GPU": "no GPU", "CPU": f"fewer than {LEAST_CPUS} CPUs"}

log = logging.getLogger(__name__)


def cluster_for(device: str, nobody_comes: float = NOBODY_COMES_SECONDS) -> Cluster:
    """What the cluster has, as soon as a run on `device` can start: waits for what an autoscaler has to add first.

    Later nodes aren't waited for: Ray Data asks for them, and uses them, once encoding turns out to be the bottleneck.
    Raises UsageError, which says what to change, if no node is on its way for `nobody_comes` seconds.
    """
    cluster = cluster_now()
    while cluster.autoscales and (missing := missing_from(cluster, device)):
        wait_for(missing, nobody_comes)
        cluster = cluster_now()
    return cluster


def missing_from(cluster: Cluster, device: str) -> dict[str, float]:
    """What a run can't do without, and the cluster doesn't have, in Ray's units."""
    if device == "cuda" and cluster.gpus < 1:
        return {"GPU": 1}
    return {"CPU": LEAST_CPUS} if cluster.cpus < LEAST_CPUS else {}


def wait_for(missing: dict[str, float], nobody_comes: float) -> None:
    """Return when a node has what is missing. Raises UsageError if none is on its way for `nobody_comes` seconds.

    A task asks for it: other than a request to the autoscaler, which outlives a killed driver, it ends with the job.
    """
    kind = "GPU" if "GPU" in missing else "CPU"
    address = ray.get_runtime_context().gcs_address
    log.info("the Ray cluster has %s yet; its autoscaler is asked for a node", LACKING[kind])
    arrived = ray.remote(num_cpus=missing.get("CPU", 0), num_gpus=missing.get("GPU", 0))(nothing).remote()
    began = seen = time.monotonic()
    with saying_why(f"no {kind} has come", lambda: describe(get_cluster_status(address)), PATIENCE_SECONDS):
        while not ray.wait([arrived], timeout=LOOK_SECONDS)[0]:
            status, now = get_cluster_status(address), time.monotonic()
            if status.pending_launches or status.pending_nodes:
                seen = now
            if now - seen > nobody_comes or now - began > NODE_SECONDS:
                ray.cancel(arrived, force=True)
                raise UsageError(refusal(kind, now - began, status))


def nothing() -> None:
    """The task that waits for a place."""


def refusal(kind: str, seconds: float, status: ClusterStatus) -> str:
    """The error of a run for which no node came."""
    asked, cure = ("--device cuda: ", ", or use --device cpu") if kind == "GPU" else ("", "")
    return (
        f"{asked}the Ray cluster has {LACKING[kind]}, and its autoscaler brought none in {seconds:.0f} s "
        f"({describe(status)}). Let it start nodes with {kind}s (max_workers, maxReplicas){cure}"
    )


def describe(status: ClusterStatus) -> str:
    """The nodes that are on their way, and those that could not be started."""
    launches = [f"{each.count} x {each.ray_node_type_name} to be launched" for each in status.pending_launches]
    starting = [f"{each.ray_node_type_name} is starting" for each in status.pending_nodes]
    failed = [f"{each.ray_node_type_name} failed: {each.details}" for each in status.failed_launches[-1:]]
    return "; ".join(launches + starting + failed) or "no node is on its way"
