"""A Ray instance of the tests' own, with workers that are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from pipelines.cluster.session import variables
from tests.s3 import free_ports

REPOSITORY = Path(__file__).resolve().parents[1]


@contextmanager
def own_ray(cpus: int, dashboard: bool) -> Iterator[str]:
    """Run a Ray while the context lasts; its workers have this environment. Yields the address for submitting jobs."""
    with variables({"PYTHONPATH": str(REPOSITORY)}):
        context = ray.init(
            address="local",  # even if another Ray runs on this machine
            num_cpus=cpus,
            include_dashboard=dashboard,  # it takes the submitted jobs, and always uses some CPU
            dashboard_host="127.0.0.1",
            dashboard_port=free_ports(1)[0],
            log_to_driver=False,
            logging_level=logging.ERROR,
            _system_config={
                # Keep idle workers: by default Ray ends them after a second, and a new one takes seconds to import.
                "idle_worker_killing_time_threshold_ms": 3_600_000,
                "num_workers_soft_limit": 16,
                "worker_niceness": 0,  # by default 15, with which they wait for whatever else runs on this machine
            },
        )
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()
