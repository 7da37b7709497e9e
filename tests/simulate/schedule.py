"""What is going to happen in a simulated world: everything is drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "kill",  # the process is killed; at a request, before the store gets it
    "kill after",  # the process is killed; at a request, after the store did it and before its answer arrives
    "late",  # the process is killed, and its request reaches the store much later
    "suspend",  # the process stands still, and goes on when others have done something
    "suspend after",  # the same; at a request, after the store did it
    "slow",  # the store answers 503 a few times
    "lost",  # the store does what is asked, and the connection breaks before the answer
    "twice",  # the store does what is asked twice, and the second answer arrives
    "denied",  # the store refuses everything to this process from now on
    "mute",  # the store refuses the heartbeats of this process from now on
    "clock",  # the clock on the wall of this machine jumps
    "time",  # minutes pass
    "append",  # another client writes to the table
    "delete guest",
    "delete row",
    "compact",
]
AT_REQUESTS: tuple[Kind, ...] = ("kill after", "late", "suspend after", "slow", "lost", "twice")
ENDS: tuple[Kind, ...] = (
    "kill",
    "kill",
    "kill",
    "kill after",
    "kill after",
    "late",
    "denied",
    "suspend",
    "suspend after",
)
DISTURBS: tuple[Kind, ...] = (
    "slow",
    "lost",
    "twice",
    "mute",
    "clock",
    "time",
    "append",
    "delete guest",
    "delete row",
    "compact",
)
MACHINES = ("machine-1", "machine-2", "machine-3")


@dataclass(frozen=True)
class Fault:
    """Something that happens to a run."""

    kind: Kind
    at: float  # how far in the run: 1 is where the last complete run ended
    amount: float  # 0 to 1: how much, or how long


@dataclass(frozen=True)
class Start:
    """A run that is started."""

    machine: str
    faults: tuple[Fault, ...]
    lost_writes: tuple[int, ...]
    units_per_block: int
    take_over: bool


@dataclass(frozen=True)
class Schedule:
    """A number of nights, and the runs of each; nobody disturbs the last run of all."""

    seed: int
    nights: tuple[tuple[Start, ...], ...]
    deletes: bool  # whether runs remove rows whose records are gone
    skew: dict[str, float]  # by how many seconds the clock of each machine is wrong

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """What happens by this seed."""
        chance = random.Random(seed)
        nights = tuple(
            tuple(start(chance) for _ in range(chance.choice((1, 2, 2, 3)))) for _ in range(chance.randint(2, 4))
        )
        skew = {name: chance.choice((0.0, chance.uniform(-1e6, 1e6))) for name in MACHINES}
        return cls(seed, nights, chance.random() < 0.75, skew)


def start(chance: random.Random) -> Start:
    """A run that is disturbed."""
    kinds = [chance.choice(ENDS)] if chance.random() < 0.75 else []
    kinds += chance.sample(DISTURBS, chance.randint(0, 3))
    return Start(
        machine=chance.choice(MACHINES),
        faults=tuple(Fault(kind, chance.random(), chance.random()) for kind in kinds),
        lost_writes=tuple(sorted(chance.sample(range(1, 9), chance.choice((0, 0, 1, 2))))),
        units_per_block=chance.choice((1, 1, 2, 4)),
        take_over=chance.random() < 0.1,
    )
