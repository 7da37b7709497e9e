"""Run the embedding job on three nodes, each with a network of its own; then kill one node, and cut another one off.

    python -m tests.chaos.cut_off FOLDER ROWS

needs to be root of a network namespace: `unshare --map-root-user --net`, in which nothing is reached from outside, and
nothing outside is reached. The catalog, the S3 server and the tables are in FOLDER; RAY_AUTH_MODE and RAY_AUTH_TOKEN
are those of the cluster. It exits with 0 if the table holds what it should.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pipelines.tables.dataset import table_uri
from tests.autoscaling import kill
from tests.chaos.catalog import row
from tests.chaos.running import ROOT, Running, command, environment, start, wait_for_version
from tests.s3 import S3, serve
from tests.s3 import environment as found_by

BRIDGE, PORT = "vista0", 6379
HEAD = "10.77.0.1"
NODES = ("10.77.0.2", "10.77.0.3")
FILES = 4
NAME = "cut-off"
ENDED_SECONDS = 120
HEALTH = '{"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}'
OPTIONS = ["--block", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]


def ip(*arguments: str) -> None:
    """Change the network."""
    subprocess.run(["ip", *arguments], check=True)


@dataclass(frozen=True)
class Node:
    """A machine, as far as its network goes: a namespace with one interface, whose other end is on the bridge."""

    address: str
    place: subprocess.Popen[bytes]  # which keeps the namespace

    @property
    def cable(self) -> str:
        """The end on the bridge."""
        return f"node{self.address.rpartition('.')[2]}"

    def inside(self, *words: str) -> list[str]:
        """A command line on this machine."""
        return ["nsenter", f"--target={self.place.pid}", "--net", *words]

    def connect(self) -> None:
        """Give it its interface."""
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.place.pid))
        ip("link", "set", self.cable, "master", BRIDGE, "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            subprocess.run(self.inside("ip", *words), check=True)
        subprocess.run(self.inside("ip", "link", "set", "lo", "up"), check=True)

    def cut_off(self) -> None:
        """No packet passes any more. No connection is closed either, as if a cable were pulled."""
        ip("link", "set", self.cable, "down")


@contextmanager
def machine(address: str) -> Iterator[Node]:
    """A namespace, while the context lasts."""
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as place:
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{place.pid}/ns/net").readlink() == ours:
            time.sleep(0.01)
        node = Node(address, place)
        try:
            node.connect()
            yield node
        finally:
            place.kill()


@contextmanager
def raylet(log: Path, words: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `ray start`; all processes below it end with the context."""
    with log.open("wb") as file, subprocess.Popen(words, env=variables, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            kill(process.pid)


def nodes_alive() -> int:
    """The number of nodes that Ray considers alive."""
    return sum(node["Alive"] for node in ray.nodes())


def wait_for_nodes(number: int, seconds: float = 60) -> None:
    """Wait until as many nodes are alive."""
    deadline = time.monotonic() + seconds
    while nodes_alive() != number:
        if time.monotonic() > deadline:
            raise AssertionError(f"{nodes_alive()} nodes are alive, not {number}")
        time.sleep(0.1)


def wait_for_rows(uri: str, job: Running) -> None:
    """Wait until the job has committed rows."""
    version = 1
    while not wait_for_version(uri, version, job).count_rows():
        version += 1


def store(s3: S3, rows: int) -> str:
    """A catalog of so many records; returns its URI. Images are few: it is about the number of records."""
    for part in range(FILES):
        records = [row(number) for number in range(part * rows // FILES, (part + 1) * rows // FILES)]
        columns = {name: [each[name] for each in records] for name in ("id", "text", "price")}
        file = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), file, row_group_size=5_000)
        s3.put(f"cut-off/part-{part}.parquet", file.getvalue().to_pybytes())
    return s3.url("cut-off")


def check(db: str, rows: int) -> lance.LanceDataset:
    """The published version has each record once."""
    table = lance.dataset(table_uri(db, NAME), version="published")
    ids = table.to_table(columns=["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == rows, f"{len(ids)} rows with {len(set(ids))} ids, not {rows}"
    assert set(ids) == {row(number)["id"] for number in range(rows)}
    return table


def main(folder: Path, rows: int) -> int:
    """Returns the exit code of the job."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    with ExitStack() as stack:
        s3 = stack.enter_context(serve(folder / "s3", HEAD))
        shared = os.environ | found_by(s3.endpoint) | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
        os.environ.update(shared)
        source, db = store(s3, rows), s3.url("cut-off-db")
        ray_command = str(Path(sys.executable).parent / "ray")
        head = [ray_command, "start", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", *OPTIONS]
        head += ["--include-dashboard=false", f"--system-config={HEALTH}"]
        head += [f"--temp-dir={tempfile.mkdtemp(prefix='ray', dir='/tmp')}"]  # see tests.autoscaling
        stack.enter_context(raylet(folder / "head.log", head, shared))
        nodes, raylets = [], []
        wait_for_port()
        ray.init(f"{HEAD}:{PORT}", log_to_driver=False)
        for address in NODES:
            node = stack.enter_context(machine(address))
            words = [ray_command, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={address}", *OPTIONS]
            raylets.append(stack.enter_context(raylet(folder / f"{address}.log", node.inside(*words), shared)))
            nodes.append(node)
            wait_for_nodes(1 + len(nodes))  # one after another: they share the folder in which their sockets are
        began = time.monotonic()
        job = start([*command(source, db, NAME), "--commit-seconds", "5"], environment(f"{HEAD}:{PORT}"))
        wait_for_rows(table_uri(db, NAME), job)
        print(f"{time.monotonic() - began:.0f} s: one node is killed, one is cut off", flush=True)
        kill(raylets[0].pid)
        nodes[1].cut_off()
        wait_for_nodes(1)
        assert job.process.poll() is None, job.end().output
        print(f"{time.monotonic() - began:.0f} s: the job goes on with one node", flush=True)
        ended = job.end()
        print(ended.output)
        print(f"{time.monotonic() - began:.0f} s: the job has ended with {ended.code}", flush=True)
        if ended.code:
            return ended.code
        version = check(db, rows).latest_version
        # The node that was cut off comes back. It was declared dead, so it must end, and write nothing.
        ip("link", "set", nodes[1].cable, "up")
        raylets[1].wait(ENDED_SECONDS)
        assert check(db, rows).latest_version == version, "a node that came back wrote something"
        print("the node that came back has ended, and has written nothing")
        ray.shutdown()
    return 0


def wait_for_port() -> None:
    """Wait until Ray's head answers."""
    words = [sys.executable, "-c", f"import ray; ray.init('{HEAD}:{PORT}', log_to_driver=False)"]
    deadline = time.monotonic() + ENDED_SECONDS
    while subprocess.run(words, capture_output=True).returncode:
        assert time.monotonic() < deadline, "the head did not start"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
