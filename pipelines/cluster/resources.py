"""How the CPUs and GPUs of a cluster are divided among the stages, so that none starves another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vista_core import UsageError


@dataclass(frozen=True)
class Resources:
    """What each task or actor reserves, in Ray's units, and the number of encode actors."""

    device: Literal["cpu", "cuda"]
    actors: int
    actors_per_node: int
    actor_cpus: float
    actor_gpus: float
    readers: int  # the most read tasks, and fetch tasks, at the same time
    transport_rows: int  # rows that an encode actor gets at once
    actor_calls: int = 1  # batches that an encode actor has at the same time
    # Each stage reserves another amount, since Ray Data fuses stages with equal reservations.
    read_cpus: float = 0.1
    fetch_cpus: float = 0.05
    decode_cpus: float = 1

    @property
    def cpus(self) -> float:
        """The least that the pipeline needs: every actor, and one task of each stage."""
        return self.actors * self.actor_cpus + self.read_cpus + self.fetch_cpus + self.decode_cpus


@dataclass(frozen=True)
class Cluster:
    """The CPUs, GPUs and nodes of a Ray cluster."""

    cpus: float
    gpus: float
    nodes: int


def share_out(cluster: Cluster, device: str, num_actors: int | None) -> Resources:
    """Reservations that fit the cluster. Raises UsageError, which says what to change, if none fit.

    Ray Data guarantees each stage an equal part of all CPUs, used or not, unless the stage has an upper limit. Limiting
    read and fetch, which need little, leaves the remaining CPUs to decoding.
    """
    if device == "cuda" and cluster.gpus < 1:
        raise UsageError(f"--device cuda: the Ray cluster has no GPU (it has {cluster.cpus:g} CPUs). Use --device cpu")
    on_gpus = device == "cuda" or (device == "auto" and cluster.gpus >= 1)
    resources = for_gpus(cluster, num_actors) if on_gpus else for_cpus(cluster, num_actors)
    if resources.cpus > cluster.cpus:
        raise UsageError(
            f"{resources.actors} encode actors and the stages that feed them need {resources.cpus:g} CPUs, but the Ray "
            f"cluster has {cluster.cpus:g}: they would wait for each other forever. Lower --num-actors or add CPUs"
        )
    return resources


def for_gpus(cluster: Cluster, num_actors: int | None) -> Resources:
    """An encode actor for each GPU. It reserves no CPU, although copies and kernel launches use most of one.

    It has two batches at the same time, so that the GPU computes while vectors are copied out and pixels are taken in.
    """
    actors = int(cluster.gpus) if num_actors is None else num_actors
    if actors > cluster.gpus:
        raise UsageError(f"--num-actors {actors}: each needs a GPU, and the Ray cluster has {cluster.gpus:g}")
    return Resources(
        device="cuda",
        actors=actors,
        actors_per_node=per_node(actors, cluster),
        actor_cpus=0,
        actor_gpus=1,
        readers=max_readers(cluster),
        transport_rows=1024,
        actor_calls=2,
    )


def for_cpus(cluster: Cluster, num_actors: int | None) -> Resources:
    """An encode actor for each node. It uses all cores of its node, but reserves less than one CPU.

    If it reserved what it uses, no CPU would be left to decode, and a stage that can't start hangs the job without an
    error. The operating system divides the cores between encoding and decoding.
    """
    actors = max(1, cluster.nodes) if num_actors is None else num_actors
    return Resources(
        device="cpu",
        actors=actors,
        actors_per_node=per_node(actors, cluster),
        actor_cpus=0.5,
        actor_gpus=0,
        readers=max_readers(cluster),
        transport_rows=64,
    )


def per_node(actors: int, cluster: Cluster) -> int:
    """The most actors on one node, if Ray spreads them evenly."""
    return -(-actors // max(1, cluster.nodes))


def max_readers(cluster: Cluster) -> int:
    """One reader for each CPU, and at least two."""
    return max(2, int(cluster.cpus))
