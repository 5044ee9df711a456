"""Steps that tests of rollouts share: a controller that serves stable, and ticks until something is so."""

from __future__ import annotations

from collections.abc import Callable

from adapters.rollouts import Phase, Rollout
from gateway.control_plane.controller import Controller
from tests.support.world import World


async def serving(world: World) -> tuple[Controller, str, str]:
    """(controller, stable, candidate); stable serves r."""
    stable, candidate = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, stable)
    return controller, stable, candidate


async def until(
    world: World, controller: Controller, phase: Phase, *, ticks: int = 60, each: Callable[[], None] = lambda: None
) -> Rollout:
    """Tick until the newest rollout is in `phase`."""
    for _ in range(ticks):
        await controller.lease.refresh()
        await world.ticks(controller, 1, seconds=0.5)
        if world.rollouts.newest()[0].phase is phase:
            return world.rollouts.newest()[0]
        each()
    raise AssertionError(f"not {phase}: {world.rollouts.newest()[0]}")


async def pass_time(world: World, controller: Controller, ticks: int = 4, seconds: float = 0.7) -> None:
    """Tick, keeping the lease."""
    for _ in range(ticks):
        await controller.lease.refresh()
        await world.ticks(controller, 1, seconds)


def kinds(world: World, rollout: int) -> list[str]:
    """What happened, in order."""
    return [event.kind for event in world.rollouts.events(rollout)]
