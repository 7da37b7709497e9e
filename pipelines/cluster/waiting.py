"""Says what a run waits for when nothing happens: CPUs that other jobs hold, or a Ray that doesn't answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import jobs
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 5.0  # between two looks at the nodes
LONGEST_COMMAND = 80
AUTOSCALER_DRAIN_IDLE = 4  # of Ray's reasons for the death of a node, NodeDeathInfo.Reason

log = logging.getLogger(__name__)


@contextmanager
def saying_why(what: str, describe: Callable[[], str], patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Log `what` is missing, and what `describe` tells of the cause, if this context lasts longer than `patience`.

    And again when it lasts twice as long, four times as long, and so on.
    """
    ended = threading.Event()
    threading.Thread(target=say_why, args=(what, describe, patience, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def say_why(what: str, describe: Callable[[], str], patience: float, ended: threading.Event) -> None:
    """The thread of `saying_why`."""
    began, until = time.monotonic(), patience
    while not ended.wait(began + until - time.monotonic()):
        log.warning("%s for %.0f s: %s", what, time.monotonic() - began, describe())
        until *= 2


@contextmanager
def naming_lost_nodes(every: float = LOOK_SECONDS) -> Iterator[None]:
    """While this context lasts, log each node that is lost, as Ray sees it. Looks `every` so many seconds."""
    ended = threading.Event()
    threading.Thread(target=name_lost_nodes, args=(nodes_by_id(), every, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def name_lost_nodes(before: dict[str, dict[str, Any]], every: float, ended: threading.Event) -> None:
    """The thread of `naming_lost_nodes`. Nodes that the autoscaler took away, since they were idle, are not lost."""
    while not ended.wait(every):
        nodes = nodes_by_id()
        left = sum(node["Alive"] for node in nodes.values())
        for key, node in nodes.items():
            if not node["Alive"] and before.get(key, node)["Alive"] and node["DeathReason"] != AUTOSCALER_DRAIN_IDLE:
                name = f"node {node['NodeName']} ({node['NodeManagerAddress']})"
                verb = "is" if left == 1 else "are"
                log.warning("%s is lost: what it was doing is done again on the %d that %s left", name, left, verb)
        before |= nodes


def nodes_by_id() -> dict[str, dict[str, Any]]:
    """What Ray knows of the cluster's nodes, by their ids; nothing if it does not answer, which others say."""
    try:
        return {node["NodeID"]: node for node in ray.nodes()}  # type: ignore[no-untyped-call]
    except (RayError, RuntimeError, OSError, ValueError):
        return {}


def describe_ray() -> str:
    """How much of Ray's CPUs and GPUs is taken, what is asked for and not given, and which other jobs there are."""
    try:
        context = ray.get_runtime_context()
        status = get_cluster_status(context.gcs_address)
        every = jobs()  # type: ignore[no-untyped-call]
    except (RayError, RuntimeError, OSError, ValueError) as error:
        return f"Ray does not say why ({type(error).__name__})"
    usage = {each.resource_name: each for each in status.cluster_resource_usage}
    taken = [f"{usage[kind].used:g} of {usage[kind].total:g} {kind}s" for kind in ("CPU", "GPU") if kind in usage]
    wanted = [
        f"{request.count} x " + " and ".join(f"{amount:g} {kind}" for kind, amount in request.bundle.items())
        for demand in status.resource_demands.ray_task_actor_demand
        for request in demand.bundles_by_count
    ]
    others = [
        f"{job['Entrypoint'][:LONGEST_COMMAND]!r}, process {job['DriverPid']} on {job['DriverIPAddress']}"
        for job in every
        if not job["IsDead"] and job["JobID"] != context.get_job_id() and not job["Entrypoint"].startswith("ray::")
    ]
    return "; ".join(
        [
            f"{' and '.join(taken) or 'no CPUs'} of Ray are taken",
            f"waiting for them: {', '.join(wanted)}" if wanted else "nothing waits for them",
            f"other jobs of this Ray: {', '.join(others)}" if others else "Ray has no other job",
        ]
    )
