"""What is waited for is said once patience is at its end, and then ever more seldom."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from pipelines.cluster.session import start_ray
from pipelines.cluster.streaming import stream_blocks
from pipelines.cluster.waiting import describe_ray, naming_lost_nodes, saying_why

OTHER_JOB = """
import ray, sys
ray.init(log_to_driver=False)

@ray.remote(num_cpus=2)
class TakesEveryCpu:
    def ping(self):
        pass

taken = TakesEveryCpu.remote()
ray.get(taken.ping.remote())
print("ready", flush=True)
sys.stdin.read(1)
"""


class Lines(logging.Handler):
    """Keeps what is logged, and has an event for each line."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.enough = enough
        self.there = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if len(self.lines) == self.enough:
            self.there.set()


@contextmanager
def logged(enough: int = 1) -> Iterator[Lines]:
    handler = Lines(enough)
    logging.getLogger("pipelines.cluster.waiting").addHandler(handler)
    try:
        yield handler
    finally:
        logging.getLogger("pipelines.cluster.waiting").removeHandler(handler)


def test_it_is_said_again_and_again_while_nothing_happens():
    with logged(enough=3) as log, saying_why("no answer", lambda: "it sleeps", patience=0.01):
        assert log.there.wait(60)
    assert all(line.startswith("no answer for ") and line.endswith(" s: it sleeps") for line in log.lines)


def test_what_comes_in_time_is_not_remarked_on():
    with logged() as log:
        for _ in range(100):
            with saying_why("no answer", lambda: "it sleeps", patience=60):
                pass
    assert log.lines == []


def test_a_flow_that_gets_no_cpu_says_who_has_them_and_goes_on_when_they_are_free():
    """In a Ray of its own: what other tests leave running would change who has CPUs."""
    program = [sys.executable, "-m", "tests.pipelines.cluster.test_waiting"]
    subprocess.run(program, cwd=Path(__file__).parents[3], check=True)


def wait_for_cpus() -> None:
    """The program of this test."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    start_ray()
    assert "Ray has no other job" in describe_ray()

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", OTHER_JOB], env=environment, **pipes)
    assert other.stdout.readline() == b"ready\n"
    numbers = ray.data.range(10, override_num_blocks=2).map_batches(
        lambda batch: batch, batch_format="pyarrow", num_cpus=0.5
    )
    with logged(enough=3) as log:
        found: list[pa.Table] = []
        reading = threading.Thread(target=lambda: found.extend(stream_blocks(numbers, patience=1)))
        reading.start()
        assert log.there.wait(120)
        other.communicate(b"x")
        reading.join()
    while_taken = log.lines[2]  # later lines may tell of the time after the other job's end
    assert "2 of 2 CPUs" in while_taken
    assert "waiting for them: 1 x 1 CPU;" in while_taken
    assert f"process {other.pid} on " in while_taken
    assert sum(blocks.rows for blocks in found) == 10


def test_a_node_that_is_lost_is_named():
    """In a Ray of its own, which loses a node."""
    program = [sys.executable, "-m", "tests.pipelines.cluster.test_waiting", "lost"]
    subprocess.run(program, cwd=Path(__file__).parents[3], check=True)


def lose_a_node() -> None:
    """The program of this test."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    [known] = [each for each in ray.nodes() if each["NodeID"] == node.node_id]
    name = f"node {known['NodeName']} ({known['NodeManagerAddress']})"
    with logged() as log, naming_lost_nodes(every=0.1):
        cluster.remove_node(node, allow_graceful=False)
        assert log.there.wait(120)
    assert log.lines == [f"{name} is lost: what it was doing is done again on the 1 that is left"]
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    lose_a_node() if sys.argv[1:] == ["lost"] else wait_for_cpus()
