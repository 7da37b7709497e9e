"""The Ray session of a job: joined or started, quiet, and with workers that can import this code."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2

from pipelines.cluster.logs import log_again, reporting, warnings_of
from pipelines.cluster.resources import Cluster
from pipelines.cluster.waiting import PATIENCE_SECONDS, saying_why
from pipelines.signals import keep_handlers
from pipelines.storage.home import own_folder
from vista_core import UsageError

ACTOR_START_SECONDS = 600
KEEPALIVE_MS = 30_000
ANSWER_SECONDS = 5.0
TOKEN = "RAY_AUTH_TOKEN"
REPOSITORY = Path(__file__).resolve().parents[2]

T = TypeVar("T")

log = logging.getLogger(__name__)


def start_ray(patience: float = PATIENCE_SECONDS) -> None:
    """Join the cluster of RAY_ADDRESS (as a submitted job does) or one that runs on this machine, else start one.

    If that takes longer than `patience` seconds, the log says so.
    """
    if not ray.is_initialized():
        # Ray forks only to exec another program, so nothing of Lance runs in between.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        # For Ray Data's actors the core worker always logs a complaint about their arguments (ray#53727).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Ray ends workers that were idle for a second, and each new one spends seconds on the same imports.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "3600000")
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * cores() + 4))
        # Of a node whose network is cut no connection is closed: by default a call to it fails after seven minutes.
        os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", str(KEEPALIVE_MS))
        os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", str(KEEPALIVE_MS))
        address = where_to_start()
        with quiet_stderr(), keep_handlers(), saying_why("Ray has not answered", describe_start, patience):
            try:
                join_or_start(address)
            except ConnectionError as error:
                raise UsageError(why_not_joined(error)) from error
    silence_ray_data()
    context = ray.data.DataContext.get_current()
    # If encoders can't start, the run must end with their error; and decoding needn't start before them.
    context.wait_for_min_actors_s = ACTOR_START_SECONDS
    # Otherwise the error of a stage that is a plain function or an actor arrives as a UserCodeException without cause.
    context.raise_original_map_exception = True


def silence_ray_data() -> None:
    """Turn off Ray Data's own progress bars and messages: a job has its own."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # The traceback of an error that the job explains in its last line.
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Of a small night, which has fewer blocks than there are encoders or readers.
    warnings.filterwarnings("ignore", message=r"The (minimum|maximum) number of concurrent (actors|tasks)")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # No stage says beforehand how much memory it uses, and Ray Data warns of each that uses any.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1


def join_or_start(address: str | None) -> None:
    """Join a Ray that runs already, else start one with two CPUs more than this machine has.

    A CPU is the right to run a task. An encoder and a reader reserve only a part of one, and Ray Data can't use the
    rest of it: with two CPUs on two cores, no two images would ever be decoded at the same time.
    """
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    environment = worker_environment()
    try:
        # Workers inherit the environment. With a runtime environment Ray could use none of the workers that it starts
        # in advance, and would start Python twice for each other one.
        with closed_to_others(), variables(environment.get("env_vars", {})):
            # The dashboard always uses some CPU.
            ray.init(address, num_cpus=cores() + 2, include_dashboard=False, _temp_dir=ray_folder(), **options)
    except ValueError:  # raised if a Ray runs already, whose CPUs can't be set
        ray.init(runtime_env=environment, **options)


def where_to_start() -> str | None:
    """None lets Ray look for one to join. `local`, a new one, if it would wait for one that is gone.

    `ray start` leaves its address in a file, which stays if that Ray is killed. Ray would try to reach it for minutes.
    """
    if os.environ.get("RAY_ADDRESS") or not (address := ray._private.utils.read_ray_address(ray_folder())):
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError):
        log.info("the Ray that was started at %s is gone; starting another one", address)
        return "local"
    return None


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Processes that are started in this context have these environment variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def closed_to_others() -> Iterator[None]:
    """A Ray that is started in this context listens on loopback only, asks for a token, and survives the driver's stop.

    Whoever reaches Ray's ports can run code. Ray has no option for loopback; the constant is what it sets on macOS. It
    would keep its token in the home directory, which a container may lack: the token of this Ray is in the environment
    of its own processes. They are sessions of their own, since `timeout` and service managers send SIGTERM to the
    driver's whole process group, and a driver without Ray could commit nothing any more.
    """
    new_token = not {TOKEN, f"{TOKEN}_PATH"} & os.environ.keys()
    if new_token:
        os.environ[TOKEN] = secrets.token_hex(32)
    constants: Any = ray._private.ray_constants
    services: Any = ray._private.services
    before = constants.ENABLE_RAY_CLUSTER, services.ConsolePopen
    constants.ENABLE_RAY_CLUSTER = False
    services.ConsolePopen = functools.partial(services.ConsolePopen, start_new_session=True)
    try:
        yield
    except ValueError:
        if new_token:  # that of the Ray which runs already is another one
            del os.environ[TOKEN]
        raise
    finally:
        constants.ENABLE_RAY_CLUSTER, services.ConsolePopen = before


def ray_folder() -> str | None:
    """Where a Ray that is started keeps its files; None for Ray's own choice, unless that is another user's."""
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    is_ours = not usual.exists() or os.access(usual, os.W_OK | os.X_OK)
    return None if is_ours else str(own_folder() / "ray")


def why_not_joined(error: BaseException) -> str:
    """The message for a Ray that can't be joined. Ray has the cause in the texts of the errors behind `error`."""
    where = os.environ.get("RAY_ADDRESS", "the Ray that runs on this machine")
    cause: BaseException | None = error
    while cause is not None:
        if "AuthenticationError" in f"{type(cause).__name__} {cause}":
            return (
                f"{where} asks for a token, and refused what it got: set RAY_AUTH_MODE to `token`, and RAY_AUTH_TOKEN"
            )
        cause = cause.__cause__ or cause.__context__
    return f"{where} can't be joined: {error}"


def describe_start() -> str:
    """Which Ray is waited for."""
    if address := os.environ.get("RAY_ADDRESS"):
        return f"RAY_ADDRESS is {address}. Check that a cluster runs there and can be reached"
    return f"one of this machine is joined or started; its logs are in {tempfile.gettempdir()}/ray/session_latest/logs"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discard what native code writes to standard error, such as that a log level was set. The log still gets there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(kept, "w", buffering=1) as shown, redirect_stderr(shown if writes_to(2) else sys.stderr):
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)


def writes_to(number: int) -> bool:
    """True if `sys.stderr` writes to this file descriptor; under pytest it may be something else."""
    try:
        return sys.stderr.fileno() == number
    except (OSError, ValueError):
        return False


def worker_environment() -> dict[str, Any]:
    """A runtime environment in which workers can import this code although it isn't installed.

    Under `ray job submit` they can do so already.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}


def on_a_worker(function: Callable[..., T], *arguments: Any) -> T:
    """Run a memory-heavy function on a worker, so that it takes no memory of the driver, nor of the head node.

    The function's warnings are logged here, too. The task reserves nothing: in the middle of a run, tasks under
    backpressure keep their CPUs and wait for what comes after this one.
    """
    try:
        result, logged = ray.get(reporting_task(function).remote(*arguments))
    except Exception as error:
        log_again(warnings_of(error))
        raise
    log_again(logged)
    return result


def where_encoders_are(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that measures a machine on one that encodes: on this one, unless it has no CPU for Ray."""
    if ray.is_initialized():
        here = ray.get_runtime_context().get_node_id()
        if not any(node["Resources"].get("CPU") for node in ray.nodes() if node["NodeID"] == here):  # type: ignore[no-untyped-call]
            return on_a_worker(function, *arguments)
    return function(*arguments)


@functools.lru_cache(maxsize=32)
def reporting_task(function: Callable[..., Any]) -> Any:
    """`function` as a Ray task, made once: each commit calls one, and Ray exports every new task to its workers."""
    return ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(reporting(function))


def cluster_now() -> Cluster:
    """What the cluster has at this moment."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    # Of version 2, which `ray up` and KubeRay start: version 1 tells nothing of nodes that are on their way.
    autoscales = is_autoscaler_v2(fetch_from_server=True)
    return Cluster(cpus, gpus, sum("CPU" in node for node in nodes), autoscales)
