"""What goes wrong with engines, adapters, the database and other controllers, tick by tick."""

from __future__ import annotations

import asyncio

import pytest

from adapters.errors import Conflict, DatabaseError
from adapters.types import Stage
from gateway.engines.client import EngineClient
from tests.support.waiting import PATIENCE
from tests.support.world import World, impatient


@pytest.mark.parametrize("how", ["ignore", "wrong", "refuse", "unlisted", "elsewhere"])
async def test_a_target_that_cannot_be_verified_is_given_up(world: World, how):
    good = world.push(seed=1)
    controller = await world.controller()
    await world.serve(controller, good)
    bad = world.push(seed=2, like=3) if how == "wrong" else world.push(seed=2)
    wrong = world.engines[0].misbehave
    if how == "refuse":
        wrong.refuse[bad] = (500, "rank too high")
    elif how == "elsewhere":
        wrong.elsewhere[bad] = "/other"
    elif how != "wrong":
        getattr(wrong, how).add(bad)
    world.routes.set_target("r", bad)
    await world.ticks(controller, 40)
    route = world.route()
    assert route.target is None and route.version == good
    assert route.error.startswith(f"{bad}: e0.sock: ")
    assert world.published().arms[0].version == good
    assert bad not in world.engines[0].adapters or how == "elsewhere"
    assert world.engines[0].loads(bad) == 3
    assert world.registry.get(bad).stage is Stage.CANDIDATE


async def test_nan_quarantines_the_version_and_spares_the_rest(world_of):
    world = await world_of(2)
    good, bad = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, good)
    for engine in world.engines:
        engine.misbehave.nan.add(bad)
    world.routes.set_target("r", bad)
    await world.ticks(controller, 4)
    assert world.registry.get(bad).stage is Stage.QUARANTINED
    assert "not finite" in world.registry.get(bad).reason
    assert "quarantined" in world.route().error and world.route().version == good
    poisoned = [engine for engine in world.engines if engine.poisoned]
    assert len(poisoned) == 1  # it was tried on one replica first
    (arm,) = world.published().arms
    assert len(arm.replicas) == 1 and len(world.snapshot().endpoints) == 1
    survivor = world.engines[int(arm.replicas[0][1])]
    assert survivor is not poisoned[0]
    for engine in world.engines:
        engine.misbehave.nan.clear()
    poisoned[0].restart()
    await world.ticks(controller, 4)
    assert len(world.published().arms[0].replicas) == 2
    assert poisoned[0].loads(bad) == 1


async def test_a_released_quarantine_is_not_imposed_again_by_the_old_finding(world: World):
    bad = world.push(seed=2)
    controller = await world.controller()
    world.engines[0].misbehave.nan.add(bad)
    world.routes.set_target("r", bad)
    await world.ticks(controller, 4)
    world.registry.release(bad, reason="the engine was at fault")
    await world.ticks(controller, 4)
    assert world.registry.get(bad).stage is Stage.CANDIDATE


async def test_an_engine_that_restarts_gets_its_adapters_back(world: World):
    version = world.push()
    controller = await world.controller()
    await world.serve(controller, version)
    world.engines[0].stop()
    await world.ticks(controller, 1)
    assert world.snapshot().endpoints == () and world.published().arms[0].replicas == ()
    world.engines[0].start()
    await world.ticks(controller, 3)
    assert world.published().arms[0].replicas == ("e0.sock",)
    assert world.engines[0].loads(version) == 2


async def test_a_restarted_engine_gets_no_requests_for_what_it_does_not_hold(world_of):
    world = await world_of(2)
    version = world.push()
    controller = await world.controller()
    await world.serve(controller, version)
    impatient(controller)
    world.engines[1].misbehave.held_up.add(version)
    world.engines[1].restart()
    async with asyncio.timeout(PATIENCE):
        while not world.engines[1].loading:  # so the restart has been noticed
            await world.ticks(controller, 1)
    await world.ticks(controller, 1)
    assert world.published().arms[0].replicas == ("e0.sock",)
    assert {endpoint.name for endpoint in world.snapshot().endpoints} == {"e0.sock", "e1.sock"}
    world.engines[1].misbehave.held_up.clear()
    async with asyncio.timeout(PATIENCE):
        while world.published().arms[0].replicas != ("e0.sock", "e1.sock"):
            await asyncio.sleep(0.02)
            await controller.lease.refresh()
            await world.ticks(controller, 1)


async def test_stable_versions_come_back_before_others(world: World):
    stable, target = world.push("r", 1), world.push("s", 2)
    previous, now = world.push("t", 3), world.push("t", 4)
    controller = await world.controller()
    await world.serve(controller, stable)
    await world.serve(controller, previous, "t")
    await world.serve(controller, now, "t")
    world.routes.set_target("s", target)
    await world.ticks(controller, 1)  # its files are prepared
    world.engines[0].calls.clear()
    world.engines[0].restart()
    await world.ticks(controller, 5)
    loads = [version for call, version in world.engines[0].calls if call == "load"]
    assert set(loads[:2]) == {stable, now} and loads[2:] == [target, previous]


async def test_a_slow_replica_does_not_hold_up_the_others(world_of, monkeypatch):
    monkeypatch.setitem(EngineClient.__init__.__kwdefaults__, "patience", 3600.0)
    world = await world_of(2)
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    impatient(controller)
    world.engines[1].misbehave.hang = True
    world.clock.now += 10.0
    await controller.lease.refresh()
    await asyncio.wait_for(world.ticks(controller, 3), PATIENCE)
    assert "e0.sock" in [endpoint.name for endpoint in world.snapshot().endpoints]
    world.engines[0].restart()
    async with asyncio.timeout(PATIENCE):
        while world.engines[0].loads(first) < 2 or "e0.sock" not in world.published().arms[0].replicas:
            await world.ticks(controller, 1)
    world.engines[1].misbehave.hang = False
    assert world.registry.get(second).stage is Stage.CANDIDATE


async def test_an_adapter_unloaded_behind_our_back_returns(world: World):
    version = world.push()
    controller = await world.controller()
    await world.serve(controller, version)
    world.engines[0].adapters.clear()
    await world.ticks(controller, 2)
    assert version in world.engines[0].adapters
    assert world.published().arms[0].replicas == ("e0.sock",)


async def test_missing_files_are_named(world: World):
    version = world.push()
    controller = await world.controller()
    world.stores.artifacts.delete(world.registry.get(version).digest)
    world.routes.set_target("r", version)
    await world.ticks(controller, 4)
    assert "push it again" in world.route().error


async def test_a_controller_that_takes_over_disturbs_nothing(world: World):
    version = world.push()
    first = await world.controller("one")
    await world.serve(first, version)
    published, calls = world.snapshot(), list(world.engines[0].calls)
    second = await world.controller("two")
    assert not second.leads
    await first.lease.release()
    await second.lease.refresh()
    await second.lead()
    await world.ticks(second, 4)
    assert world.snapshot() == published and world.engines[0].calls == calls


async def test_a_leader_that_was_replaced_cannot_publish(world: World):
    controller = await world.controller("one")
    await controller.tick()
    world.clock.now += 60.0
    second = await world.controller("two")
    assert second.leads
    world.routes.create("other")
    with pytest.raises(Conflict, match="another process leads"):
        await controller.tick()
    assert [route.name for route in world.snapshot().routes] == []


async def test_a_takeover_does_not_unload_what_was_just_routed(world: World):
    """A worker may still send requests by the old leader's last snapshot."""
    first, second = world.push(seed=1), world.push(seed=2)
    one = await world.controller("one")
    await world.serve(one, first)
    await world.serve(one, second)
    world.routes.end_bake("r")
    await one.lease.release()
    two = await world.controller("two")
    await world.ticks(two, 3)
    assert first in world.engines[0].adapters
    await world.ticks(two, 6, seconds=1.0)
    assert first not in world.engines[0].adapters


async def test_a_lost_database_is_waited_for(world: World, monkeypatch, caplog):
    version = world.push()
    controller = await world.controller()
    await world.serve(controller, version)
    caplog.set_level("INFO", "understudy.controller")
    published = world.snapshot()
    lost = DatabaseError("database is away")

    def fail(*_args, **_more):
        raise lost

    with monkeypatch.context() as broken:
        for name in ("registry_revision", "upsert_holding", "publish", "renew_lease", "acquire_lease"):
            broken.setattr(world.fleet, name, fail)
        for _ in range(3):
            await controller._round()
    assert caplog.text.count("holding everything as it is") == 1
    assert version in world.engines[0].adapters and world.snapshot() == published
    await controller._round()
    assert "the database is back" in caplog.text


async def test_a_bug_ends_the_controller_and_lets_another_lead(world: World, monkeypatch):
    controller = await world.controller()

    async def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(controller, "tick", broken)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="a bug"):
            await controller.run(asyncio.Event())
    assert not controller.lease.held
    assert await world.follower("two").lease.refresh()
