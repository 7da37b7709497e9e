"""Ray for a job: joined or started, quiet, and able to import this code on its workers."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray

from pipelines.resources import Cluster

ACTOR_START_SECONDS = 600

T = TypeVar("T")


def start_ray() -> None:
    """Join the cluster of RAY_ADDRESS (as a submitted job does) or one that runs here, else start one."""
    if not ray.is_initialized():
        # Ray forks only to exec, so nothing of Lance runs in between.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        # Ray Data's actors always draw a complaint from the core worker about their arguments (ray#53727).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Ray ends idle workers after a second; each new one imports for seconds what the last one had.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "3600000")
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * cores() + 4))
        with quiet_stderr():  # it would say that the level was set
            join_or_start()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # a traceback of what the job says in words
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It warns of every stage that uses memory at all, since none says beforehand how much.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    # Encoders that can't start must end the run with their error; and decoding needn't start before they did.
    context.wait_for_min_actors_s = ACTOR_START_SECONDS


def join_or_start() -> None:
    """A Ray that is there already, or one with two CPUs more than this machine has.

    CPUs are what tasks may reserve. An encoder, and readers, reserve a part of one, and Ray Data loses what is left of
    it: on two cores, two CPUs would never let two images be decoded at once.
    """
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["runtime_env"] = worker_environment()
    try:
        ray.init(num_cpus=cores() + 2, include_dashboard=False, **options)  # the dashboard computes all the time
    except ValueError:  # of one that is there already the CPUs can't be chosen
        ray.init(**options)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops what native code writes to standard error meanwhile; exceptions are not affected."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def worker_environment() -> dict[str, Any]:
    """Lets workers import this code where it isn't installed; under `ray job submit` they can already."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    here = str(Path(__file__).resolve().parents[1])
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}}


def on_a_worker(function: Callable[..., T], *arguments: Any) -> T:
    """What reads a lot takes memory for it: not the driver's, nor that of the head node on which this may run.

    Reserves nothing: amid a run, tasks under backpressure keep their CPUs and wait for what comes after this.
    """
    task: Any = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(function)
    return ray.get(task.remote(*arguments))


def cluster_now() -> Cluster:
    """What Ray has to give at this moment."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return Cluster(cpus, gpus, sum("CPU" in node for node in nodes))
