"""A seed, and the world that comes of it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import torch

from pipelines.stages.decode import preprocessor
from tests.simulate.compute import SETTINGS
from tests.simulate.schedule import Schedule
from tests.simulate.world import Outcome, World

MOST_SECONDS = 120.0  # of the real time, for a whole world


def in_a_new_folder(seed: int) -> Outcome:
    """Simulate a seed in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="vista-simulate-") as folder:
        return simulate(seed, Path(folder))


def simulate(seed: int, folder: Path) -> Outcome:
    """Let everything happen that the seed says. Processes are forks of this one, which must not have used Lance yet."""
    world = World(Schedule.of(seed), folder)
    try:
        asyncio.run(asyncio.wait_for(world.live(), MOST_SECONDS))
    except TimeoutError:
        world.outcome.faults.append(f"nothing happened any more, or too much: {MOST_SECONDS:g} s are over")
    finally:
        world.end()
    return world.outcome


def prepare() -> None:
    """Load in this process what all of its forks need."""
    torch.set_num_threads(1)
    preprocessor(SETTINGS)
