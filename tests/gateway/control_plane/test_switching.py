from __future__ import annotations

from dataclasses import replace

from adapters.types import Route
from gateway.control_plane.switching import Commit, Fail, judge
from gateway.control_plane.view import View
from gateway.engines.placement import Placement
from tests.support.world import World


async def verdict(world: World, controller, target: str, **changes):
    view = await controller._view(world.clock.now)
    versions = {target: replace(world.registry.get(target), **changes)}
    route = Route("r", target=target)
    return judge(route, View(1, (route,), versions), controller.placement, controller.fleet, controller.preparation), view


async def test_wait_commit_fail(world: World):
    from adapters.types import Stage

    target = world.push()
    controller = await world.controller()
    await world.ticks(controller, 1)
    assert (await verdict(world, controller, target))[0] is None  # not placed yet
    controller.ask_for(target)
    await world.ticks(controller, 3)
    assert (await verdict(world, controller, target))[0] == Commit()
    quarantined = (await verdict(world, controller, target, stage=Stage.QUARANTINED, reason="NaN"))[0]
    assert quarantined == Fail("it is quarantined: NaN", blame=True)
    controller.placement = Placement({}, {target: "no free slot"})
    assert (await verdict(world, controller, target))[0] == Fail("no free slot")


async def test_without_an_engine_nothing_is_decided(world: World):
    target = world.push()
    controller = await world.controller()
    world.engines[0].stop()
    world.routes.set_target("r", target)
    await world.ticks(controller, 10)
    assert world.route().target == target and world.route().error == ""
    world.engines[0].start()
    await world.ticks(controller, 4)
    assert world.route().version == target


async def test_an_operator_who_is_faster_wins(world: World, monkeypatch):
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    world.routes.set_target("r", first)
    commit = world.routes.commit_target

    def late(*args):
        world.routes.set_target("r", second)
        return commit(*args)

    with monkeypatch.context() as change:
        change.setattr(world.routes, "commit_target", late)
        await world.ticks(controller, 3)
    assert world.route().version is None and world.route().target == second
    await world.ticks(controller, 4)
    assert world.route().version == second
