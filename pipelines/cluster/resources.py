"""How the CPUs and GPUs of a cluster are divided among the stages, so that none starves another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, Literal

from vista_core import UsageError

ENCODER_CPUS: Final = 0.5  # the least that an encoder on CPUs needs to be of use


@dataclass(frozen=True)
class Resources:
    """What each task or actor reserves, in Ray's units, and the number of encode actors."""

    device: Literal["cpu", "cuda"]
    actors: int  # at the start, and no fewer later
    actors_per_node: int
    actor_cpus: float
    actor_gpus: float
    readers: int  # the most read tasks, and fetch tasks, at the same time
    transport_rows: int  # rows that an encode actor gets at once
    most_actors: int | None  # when nodes have joined; None if only the cluster limits it
    actor_calls: int = 1  # batches that an encode actor has at the same time
    # Each stage reserves another amount, since Ray Data fuses stages with equal reservations.
    read_cpus: float = 0.1
    fetch_cpus: float = 0.05
    decode_cpus: float = 1

    @property
    def cpus(self) -> float:
        """The least that the pipeline needs: every actor, and one task of each stage."""
        of_actors = ENCODER_CPUS * self.actors if self.device == "cpu" else 0
        return of_actors + self.read_cpus + self.fetch_cpus + self.decode_cpus

    def limited_to(self, batches: int) -> Resources:
        """With no more encode actors than there are batches, but at least one."""
        most = max(1, batches)
        more = most if self.most_actors is None else min(self.most_actors, most)
        return dataclasses.replace(self, actors=min(self.actors, most), most_actors=more)

    def __str__(self) -> str:
        """The encode actors, for people."""
        place = "GPU" if self.device == "cuda" else "CPU"
        now = f"{self.actors} {place} encode actor{'s' * (self.actors > 1)}"
        if self.most_actors == self.actors:
            return now
        return f"{now}, {'more' if self.most_actors is None else f'up to {self.most_actors}'} as nodes join"


@dataclass(frozen=True)
class Cluster:
    """The CPUs, GPUs and nodes of a Ray cluster, and whether an autoscaler can add nodes."""

    cpus: float
    gpus: float
    nodes: int
    autoscales: bool = False


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
    If an autoscaler adds GPUs during the run, Ray Data starts actors there.
    """
    present = int(cluster.gpus)
    actors = present if num_actors is None else min(num_actors, present)
    if num_actors is not None and num_actors > present and not cluster.autoscales:
        raise UsageError(f"--num-actors {num_actors}: each needs a GPU, and the Ray cluster has {cluster.gpus:g}")
    return Resources(
        device="cuda",
        actors=actors,
        actors_per_node=per_node(actors, cluster),
        actor_cpus=0,
        actor_gpus=1,
        readers=max_readers(cluster),
        transport_rows=1024,
        most_actors=None if num_actors is None and cluster.autoscales else num_actors or actors,
        actor_calls=2,
    )


def for_cpus(cluster: Cluster, num_actors: int | None) -> Resources:
    """An encode actor for each node. It uses all cores of its node, but reserves next to nothing.

    If it reserved what it uses, no CPU would be left to decode, and a stage that can't start hangs the job without an
    error; so would even half a CPU, once nodes are lost and the nodes that are left have all actors. The operating
    system divides the cores between encoding and decoding.
    """
    actors = max(1, cluster.nodes) if num_actors is None else num_actors
    return Resources(
        device="cpu",
        actors=actors,
        actors_per_node=per_node(actors, cluster),
        actor_cpus=0.02,
        actor_gpus=0,
        readers=max_readers(cluster),
        transport_rows=64,
        most_actors=actors,
    )


def per_node(actors: int, cluster: Cluster) -> int:
    """The most actors on one node, if Ray spreads them evenly."""
    return -(-actors // max(1, cluster.nodes))


def max_readers(cluster: Cluster) -> int:
    """One reader for each CPU, and at least two."""
    return max(2, int(cluster.cpus))
