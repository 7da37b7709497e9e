"""Run the embedding job on a Ray cluster of three nodes, and remove one node once the first rows are committed.

    python -m tests.chaos.three_nodes ARGUMENTS OF jobs/embed_corpus.py

prints the job's output and exits with its exit code. It is a separate process, because a process can connect to
only one Ray.
"""

from __future__ import annotations

import sys
import time

import ray
from ray.cluster_utils import Cluster

from pipelines.embed.config import EmbedConfig
from pipelines.options import parse
from pipelines.tables.dataset import table_uri
from tests.chaos.running import LOOK_SECONDS, command, environment, start, wait_for_version, workers

NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}
# A lost node is noticed within seconds, while the job still runs.
HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
HAS_ROWS = 2  # a table of this version has rows


def nodes_alive() -> int:
    """The number of nodes that Ray considers alive."""
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
    wait_for_version(table_uri(config.db, config.table), HAS_ROWS, job)
    # Remove the node with the most encoders, then the most workers; the head node stays.
    busy = {node: workers("", node.all_processes["raylet"][0].process.pid) for node in nodes}
    encoders = workers("EncodeActor")
    removed = max(nodes, key=lambda node: (len({*busy[node]} & {*encoders}), len(busy[node])))
    print(f"removing a node with {len(busy[removed])} workers, {len({*busy[removed]} & {*encoders})} of them encoders")
    cluster.remove_node(removed, allow_graceful=False)
    while nodes_alive() == len(nodes) + 1 and job.process.poll() is None:
        time.sleep(LOOK_SECONDS)
    if job.process.poll() is None:
        print(f"{nodes_alive()} nodes are left, and the job goes on")
    ended = job.end()
    print(ended.output)
    ray.shutdown()
    cluster.shutdown()
    sys.exit(ended.code)
