"""Run the embedding job on a Ray of three nodes, and take one away when the first rows are committed.

    python -m tests.chaos.three_nodes ARGUMENTS OF jobs/embed_corpus.py

prints the job's output, and ends with its exit code. A process of its own: a second Ray can't be joined beside a first.
"""

from __future__ import annotations

import sys
import time

import ray
from ray.cluster_utils import Cluster

from pipelines.run_config import EmbedConfig, parse
from pipelines.sink.table import table_uri
from tests.chaos.running import LOOK_SECONDS, command, environment, start, wait_for_version, workers

NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}
# A node that is gone is missed within seconds, while the job still runs.
HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
ROWS_ARE_THERE = 2  # version of the table


def left() -> int:
    """How many nodes Ray believes to have."""
    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    config = parse(EmbedConfig)
    cluster = Cluster(
        initialize_head=True, head_node_args=NODE | {"include_dashboard": False, "_system_config": HEALTH}
    )
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False)
    job = start(command(config.source, config.db, config.table), environment(cluster.address))
    wait_for_version(table_uri(config.db, config.table), ROWS_ARE_THERE, job)
    # The node that has most to lose: an encoder, if there is one beside the head's.
    busy = {node: workers("", node.all_processes["raylet"][0].process.pid) for node in nodes}
    encoders = workers("EncodeActor")
    gone = max(nodes, key=lambda node: (len({*busy[node]} & {*encoders}), len(busy[node])))
    print(f"the node that goes has {len(busy[gone])} workers, {len({*busy[gone]} & {*encoders})} of them encoders")
    cluster.remove_node(gone, allow_graceful=False)
    while left() == len(nodes) + 1 and job.process.poll() is None:
        time.sleep(LOOK_SECONDS)
    if job.process.poll() is None:
        print(f"{left()} nodes are left, and the job goes on")
    ended = job.end()
    print(ended.output)
    ray.shutdown()
    cluster.shutdown()
    sys.exit(ended.code)
