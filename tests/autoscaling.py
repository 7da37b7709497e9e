"""A Ray cluster on this machine whose autoscaler really starts and ends nodes: each is a raylet of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from tests.s3 import free_ports

ROOT = Path(__file__).resolve().parents[1]
HEAD = "ray.head.default"  # the name that Ray's provider gives it
MEMORY = 200_000_000
LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
COMMANDS = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


class LateNodes(FakeMultiNodeProvider):
    """Ray's provider of nodes on one machine, but a node takes `late_seconds` to come, as one of a cloud does.

    Of nodes whose configuration is `{"sold_out": true}` the cloud has none, as of spot nodes now and then.
    """

    def create_node_with_resources_and_labels(self, node_config: dict[str, Any], *others: Any) -> None:
        """Called by the autoscaler, in a thread of its own."""
        if node_config.get("sold_out"):
            raise RuntimeError("InsufficientInstanceCapacity")
        time.sleep(self.provider_config["late_seconds"])
        super().create_node_with_resources_and_labels(node_config, *others)


def configuration(port: int, nodes: Mapping[str, Mapping[str, Any]], late_seconds: float) -> dict[str, Any]:
    """What `ray up` would write to the head for these types of nodes, whose names are free."""
    head = {"resources": {"CPU": 0}, "max_workers": 0}
    provider = {
        "type": "external",
        "module": f"{LateNodes.__module__}.{LateNodes.__name__}",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": f"127.0.0.1:{port}",
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "late_seconds": late_seconds,
    }
    types = {HEAD: head} | {name: dict(kind) for name, kind in nodes.items()}
    return {
        "cluster_name": "local",
        "max_workers": 8,
        "upscaling_speed": 1000.0,
        "idle_timeout_minutes": 0.2,
        "provider": provider,
        "head_node_type": HEAD,
        "available_node_types": {name: {"node_config": {}, "labels": {}} | kind for name, kind in types.items()},
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in (*LISTS, *(f"{each}_commands" for each in COMMANDS))},
    }


@contextmanager
def autoscaling(
    folder: Path, nodes: Mapping[str, Mapping[str, Any]], late_seconds: float = 0
) -> Iterator[dict[str, str]]:
    """A cluster whose head has no CPU. Yields the environment in which a process joins it by a token.

    VISTA_HEAD in it is the process below which all nodes are.
    """
    (port,) = free_ports(1)
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(configuration(port, nodes, late_seconds)))
    # Without an address of its own, a Ray that starts doesn't take the port of another one on this machine.
    client = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(ROOT)}
    environment = client | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": HEAD,
        "RAY_worker_niceness": "0",
    }
    options = ["--head", "--block", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1"]
    options += ["--include-dashboard=false", f"--object-store-memory={MEMORY}", "--disable-usage-stats"]
    # In a folder of its own: in /tmp/ray Ray notes a cluster that others then try to join, also when it was killed.
    options += [f"--autoscaling-config={file}", f"--temp-dir={tempfile.mkdtemp(prefix='ray', dir='/tmp')}"]
    command = [str(Path(sys.executable).parent / "ray"), "start", *options]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_ready(head, folder / "head.log")
            yield client | {"RAY_ADDRESS": f"127.0.0.1:{port}", "VISTA_HEAD": str(head.pid)}
        finally:
            kill(head.pid)
            head.wait()


def kill(pid: int) -> None:
    """Kill a process and all that it started, such as the nodes that an autoscaler started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def wait_until_ready(head: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the head says that it runs."""
    deadline = time.monotonic() + 180
    while "--block" not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the head did not start: {log.read_text()}")
        time.sleep(0.1)
