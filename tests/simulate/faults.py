"""What can happen to a run at the point where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulate.process import Driver, Point
from tests.simulate.schedule import Fault
from tests.simulate.store import CLOSED, DENIED, SLOW_DOWN

if TYPE_CHECKING:
    from tests.simulate.world import World

LONGEST_SLEEP = 200  # steps of others
LONGEST_MINUTES = 10
JUMP_SECONDS = 1e5  # of a clock


def steps_of(fault: Fault) -> int:
    """How many steps of others something takes: often few."""
    return 1 + int(fault.amount**2 * LONGEST_SLEEP)


async def kill(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """Kill a run where it stands, perhaps after the store did what it asked for, perhaps a long time before."""
    if fault.kind == "kill after":
        assert point.request is not None
        world.store.execute(point.request)
    if fault.kind == "late":
        assert point.request is not None
        world.late.append((world.steps + steps_of(fault), driver, point.request))
        driver.is_out_of_order = True
    world.tell(f"{driver} at point {driver.passed}, {point.name}: {fault.kind}")
    world.outcome.kills += 1
    driver.kill()


async def suspend(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """Let a run stand still."""
    world.tell(f"{driver} at point {driver.passed}, {point.name}: {fault.kind}")
    driver.wakes, driver.is_out_of_order = world.steps + steps_of(fault), True
    if fault.kind == "suspend after":
        assert point.request is not None
        point.answer = world.store.execute(point.request)


async def answer(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """Answer a request in another way."""
    assert point.request is not None
    world.tell(f"{driver} at point {driver.passed}, {point.name}: {fault.kind}")
    if fault.kind == "slow":
        driver.slow = int(fault.amount * 2)
        driver.release(SLOW_DOWN)
    else:
        first = world.store.execute(point.request)
        driver.release(CLOSED if fault.kind == "lost" else world.store.execute(point.request))
        assert first.status
    driver.at = None


async def cut_off(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """From now on the store refuses a run everything, or its heartbeats."""
    world.tell(f"{driver} at point {driver.passed}, {point.name}: {fault.kind}")
    if fault.kind == "mute":
        driver.mute = True
        return
    driver.denied = True
    if point.request is not None:
        driver.release(DENIED)


async def pass_by(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """A clock jumps, or minutes pass."""
    if fault.kind == "clock":
        jump = (fault.amount - 0.5) * JUMP_SECONDS
        world.skew[driver.start.machine] += jump
        world.tell(f"the clock of {driver.start.machine} jumps by {jump:.0f} s")
    else:
        seconds = fault.amount * LONGEST_MINUTES * 60
        world.tell(f"{seconds:.0f} s pass")
        await world.pass_time(seconds)


async def write(world: World, driver: Driver, point: Point, fault: Fault) -> None:
    """Another client writes."""
    await world.write(fault.kind)


GOES_ON = ("mute", "clock", "time", "append", "delete guest", "delete row", "compact")
FAULTS: dict[str, Callable] = {
    "kill": kill,
    "kill after": kill,
    "late": kill,
    "suspend": suspend,
    "suspend after": suspend,
    "slow": answer,
    "lost": answer,
    "twice": answer,
    "denied": cut_off,
    "mute": cut_off,
    "clock": pass_by,
    "time": pass_by,
    "append": write,
    "delete guest": write,
    "delete row": write,
    "compact": write,
}
