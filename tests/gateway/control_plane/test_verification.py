from __future__ import annotations

import asyncio

import pytest

from adapters.errors import Conflict, EngineUnavailable, NotFound
from gateway.control_plane.controller import Controller
from gateway.control_plane.verification import Finding, verify
from tests.support.world import World


async def verified(world: World, controller: Controller, version: str) -> list[Finding]:
    """The findings, with the controller's loop going on beside it."""
    asking = asyncio.ensure_future(verify(controller, world.registry, version))
    while not asking.done():
        await controller.tick()
        await asyncio.sleep(0.02)
        world.clock.now += 0.05
    return asking.result()


async def test_a_version_that_fails_where_it_is_tried_first_is_not_tried_elsewhere(world_of):
    world = await world_of(2)
    version = world.push(like=9)
    findings = await verified(world, await world.controller(), version)
    assert sorted(f.verdict for f in findings) == ["mismatch", "not tried"]
    assert not any(f.ok for f in findings)
    assert sum(engine.loads(version) for engine in world.engines) == 1


async def test_nan_is_reported_and_quarantines(world_of):
    world = await world_of(2)
    version = world.push()
    for engine in world.engines:
        engine.misbehave.nan.add(version)
    findings = await verified(world, await world.controller(), version)
    assert [f for f in findings if f.verdict == "non_finite" and "not finite" in f.error]
    assert world.registry.get(version).stage.value == "quarantined"


async def test_a_version_that_serves_keeps_serving_while_it_is_verified(world: World):
    version = world.push()
    controller = await world.controller()
    await world.serve(controller, version)
    before = world.snapshot()
    world.clock.now += 1.0
    (finding,) = await verified(world, controller, version)
    assert finding.ok and finding.verdict == "match"
    assert world.snapshot() == before


async def test_one_without_probes_says_so(world: World):
    version = world.push(probes=False)
    (finding,) = await verified(world, await world.controller(), version)
    assert finding.ok and finding.verdict == "none"


async def test_no_slot(world_of):
    world = await world_of(1, max_loras=1, max_cpu_loras=1)
    controller = await world.controller()
    await world.serve(controller, world.push("r", 1))
    with pytest.raises(Conflict, match="no free slot"):
        await verified(world, controller, world.push("s", 2))


async def test_missing_files(world: World):
    version = world.push()
    world.stores.artifacts.delete(world.registry.get(version).digest)
    with pytest.raises(EngineUnavailable, match="push it again"):
        await verified(world, await world.controller(), version)


async def test_unknown_and_quarantined_versions(world: World):
    controller = await world.controller()
    with pytest.raises(NotFound):
        await verify(controller, world.registry, "r@000000000000")
    version = world.push()
    world.registry.quarantine(version, "test", "NaN")
    with pytest.raises(Conflict, match="is quarantined"):
        await verify(controller, world.registry, version)


async def test_one_that_does_not_lead_says_so(world: World):
    await world.controller("one")
    follower = world.follower("two")
    with pytest.raises(Conflict, match="does not lead"):
        await verify(follower, world.registry, world.push())
