"""Sharing out a cluster's processors among the stages, so that none starves another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vista_core import UsageError


@dataclass(frozen=True)
class Resources:
    """What each task or actor reserves, in Ray's units, and how many encode actors there are."""

    device: Literal["cpu", "cuda"]
    actors: int
    actor_cpus: float
    actor_gpus: float
    read_cpus: float
    fetch_cpus: float
    decode_cpus: float
    readers: int  # read tasks at once, and fetch tasks, at most
    actors_per_node: int
    transport_rows: int  # rows handed to an encode actor at once

    @property
    def cpus(self) -> float:
        """The least that the pipeline needs: every actor, and one task of each kind."""
        return self.actors * self.actor_cpus + self.read_cpus + self.fetch_cpus + self.decode_cpus


@dataclass(frozen=True)
class Cluster:
    """What Ray has to give."""

    cpus: float
    gpus: float
    nodes: int


def share_out(cluster: Cluster, device: str, num_actors: int | None) -> Resources:
    """Reservations that fit the cluster. Raises UsageError, with what to change, if there are none.

    An actor on a GPU reserves no CPU, though copies and launches take most of one. On CPUs it uses all cores, but
    reserves less than one, since otherwise nothing would be left to decode for it (a stage that can't start hangs the
    job without an error). The operating system shares out the cores between encoder and decoders.

    Ray Data keeps an equal part of all CPUs for each stage, used or not, unless the stage has an upper bound: with one
    for reading and fetching, which take little, decoding gets what is left, else not even half.
    """
    readers = max(2, int(cluster.cpus))
    nodes = max(1, cluster.nodes)
    if device == "cuda" and cluster.gpus < 1:
        raise UsageError(f"--device cuda: the Ray cluster has no GPU (it has {cluster.cpus:g} CPUs). Use --device cpu")
    if device == "cuda" or (device == "auto" and cluster.gpus >= 1):
        actors = int(cluster.gpus) if num_actors is None else num_actors
        if actors > cluster.gpus:
            raise UsageError(f"--num-actors {actors}: each takes a GPU and the Ray cluster has {cluster.gpus:g}")
        wanted = Resources("cuda", actors, 0, 1, 0.1, 0.05, 1, readers, -(-actors // nodes), transport_rows=1024)
    else:
        actors = nodes if num_actors is None else num_actors
        # Ray Data fuses stages with equal reservations: with decode's the actor would decode by itself.
        wanted = Resources("cpu", actors, 0.5, 0, 0.1, 0.05, 1, readers, -(-actors // nodes), transport_rows=64)
    if wanted.cpus > cluster.cpus:
        raise UsageError(
            f"{actors} encode actors and the stages that feed them need {wanted.cpus:g} CPUs, the Ray cluster has "
            f"{cluster.cpus:g}: they would wait for each other forever. Lower --num-actors or add CPUs"
        )
    return wanted
