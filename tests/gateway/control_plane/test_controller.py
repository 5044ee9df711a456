from __future__ import annotations

import asyncio

import pytest

from adapters.errors import Conflict, DatabaseError
from adapters.types import HoldingState, Stage
from gateway.config import parse_duration
from tests.support.world import World, open_world


async def test_a_route_without_a_version_serves_the_base(world: World):
    world.routes.create("r")
    controller = await world.controller()
    await controller.tick()
    (arm,) = world.published().arms
    assert (arm.arm, arm.version, arm.model) == ("stable", world.base.version, "base")
    assert (arm.low, arm.high, arm.replicas) == (0.0, 1.0, ("e0.sock",))
    assert world.snapshot().base.replicas == ("e0.sock",)
    assert world.snapshot().endpoints[0].url == world.engines[0].url
    assert world.snapshot().effective_at == pytest.approx(world.clock.now + 0.2)


async def test_a_target_is_loaded_probed_and_then_served(world: World):
    version = world.push()
    controller = await world.controller()
    await world.ticks(controller, 1)
    world.routes.set_target("r", version)
    await world.ticks(controller)
    assert world.route().version == version and world.route().target is None
    assert world.published().arms[0].version == version
    assert world.snapshot().pinned[0].version == version
    assert world.held("e0.sock", version).probe["verdict"] == "match"
    assert world.registry.get(version).stage is Stage.RELEASED


async def test_nothing_changes_nothing_is_published(world: World):
    controller = await world.controller()
    await world.serve(controller, world.push())
    before = world.snapshot()
    world.engines[0].calls.clear()
    await world.ticks(controller, 5)
    assert world.snapshot() == before and world.engines[0].calls == []


async def test_the_old_version_serves_until_the_new_one_is_ready(world: World):
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    world.engines[0].misbehave.ignore.add(second)
    world.routes.set_target("r", second)
    await world.ticks(controller, 2)
    assert world.published().arms[0].version == first and world.route().target == second
    world.engines[0].misbehave.ignore.clear()
    await world.ticks(controller, 20)
    assert world.published().arms[0].version == second
    assert world.route().previous == first
    assert set(world.engines[0].adapters) == {first, second}  # kept for the way back


async def test_after_the_bake_the_old_version_drains_and_leaves(world: World):
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    await world.serve(controller, second)
    world.engines[0].misbehave.in_use = {first}
    world.clock.now += parse_duration(world.settings.rollout.bake)
    await controller.lease.refresh()
    await world.ticks(controller, 3)
    assert world.route().previous is None
    assert first not in [pinned.version for pinned in world.snapshot().pinned]
    assert first in world.engines[0].adapters  # workers may still send requests for it
    world.clock.now += 60.0
    await world.ticks(controller, 3)
    assert first in world.engines[0].adapters  # one is still running
    world.engines[0].misbehave.in_use = set()
    await world.ticks(controller, 3)
    assert set(world.engines[0].adapters) == {second}
    assert world.held("e0.sock", first).state is HoldingState.UNLOADED


async def test_files_outlive_the_engine_that_read_them(world: World):
    first, second = world.push(seed=1), world.push(seed=2)
    digest = world.registry.get(first).digest
    controller = await world.controller()
    await world.serve(controller, first)
    await world.serve(controller, second)
    world.clock.now += 90_000.0
    await world.ticks(controller, 8, seconds=2.0)
    assert first not in world.engines[0].adapters
    world.registry.archive(first)
    world.registry.collect()
    assert world.stores.artifacts.exists(digest)
    world.engines[0].restart()
    await world.ticks(controller, 4, seconds=2.0)
    world.registry.collect()
    assert not world.stores.artifacts.exists(digest)
    assert world.stores.artifacts.exists(world.registry.get(second).digest)


async def test_a_way_back_needs_no_load(world: World):
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    await world.serve(controller, second)
    loads = world.engines[0].loads(first)
    await world.serve(controller, first)
    assert world.engines[0].loads(first) == loads and world.published().arms[0].version == first


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
    world.engines[1].misbehave.slow = 2.0
    world.engines[1].restart()
    await world.ticks(controller, 2)
    assert world.published().arms[0].replicas == ("e0.sock",)
    assert {endpoint.name for endpoint in world.snapshot().endpoints} == {"e0.sock", "e1.sock"}
    world.engines[1].misbehave.slow = 0.0
    await asyncio.sleep(2.0)
    await world.ticks(controller, 3)
    assert world.published().arms[0].replicas == ("e0.sock", "e1.sock")


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


async def test_a_slow_replica_does_not_hold_up_the_others(world_of):
    world = await world_of(2)
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    world.engines[1].misbehave.hang = True
    world.clock.now += 10.0
    await controller.lease.refresh()
    await asyncio.wait_for(world.ticks(controller, 3), 5.0)
    assert "e0.sock" in [endpoint.name for endpoint in world.snapshot().endpoints]
    world.engines[0].restart()
    await asyncio.wait_for(world.ticks(controller, 3), 5.0)
    assert "e0.sock" in world.published().arms[0].replicas
    assert world.registry.get(second).stage is Stage.CANDIDATE


async def test_loads_on_one_replica_are_serial(world: World):
    world.engines[0].misbehave.slow = 0.05
    versions = [world.push(f"r{n}", n) for n in range(4)]
    controller = await world.controller()
    for number, version in enumerate(versions):
        world.routes.set_target(f"r{number}", version)
    await world.ticks(controller, 12)
    assert all(world.route(f"r{n}").version == version for n, version in enumerate(versions))
    assert world.engines[0].most_loading == 1


async def test_beyond_the_slots_a_target_is_refused_not_queued(world_of):
    world = await world_of(1, max_loras=2, max_cpu_loras=2)
    versions = [world.push(f"r{n}", n) for n in range(3)]
    controller = await world.controller()
    for number in range(2):
        await world.serve(controller, versions[number], f"r{number}")
    world.routes.set_target("r2", versions[2])
    await world.ticks(controller, 3)
    assert world.route("r2").target is None
    assert "no free slot" in world.route("r2").error and "engine.max_" in world.route("r2").error
    assert world.engines[0].loads(versions[2]) == 0
    assert world.published("r2").arms[0].version == world.base.version


async def test_with_more_replicas_the_excess_is_placed_elsewhere(world_of):
    world = await world_of(2, max_loras=2, max_cpu_loras=2)
    versions = [world.push(f"r{n}", n) for n in range(4)]
    controller = await world.controller()
    for number, version in enumerate(versions):
        await world.serve(controller, version, f"r{number}")
        await world.ticks(controller, 4, seconds=5.0)
    for number in range(4):
        assert len(world.published(f"r{number}").arms[0].replicas) == 1
    assert all(len(engine.adapters) == 2 for engine in world.engines)


async def test_a_replica_that_leaves_hands_its_versions_over(world_of):
    world = await world_of(2, max_loras=2, max_cpu_loras=4)
    versions = [world.push(f"r{n}", n) for n in range(2)]
    controller = await world.controller()
    for number, version in enumerate(versions):
        await world.serve(controller, version, f"r{number}")
    world.engines[1].stop()
    await world.ticks(controller, 3)
    for number in range(2):
        assert world.published(f"r{number}").arms[0].replicas == ("e0.sock",)


async def test_a_new_version_is_tried_on_one_replica_first(world_of):
    world = await world_of(3)
    version = world.push()
    controller = await world.controller()
    for engine in world.engines:
        engine.misbehave.refuse[version] = (500, "no")
    world.routes.set_target("r", version)
    await world.ticks(controller, 40)
    assert sorted(engine.loads(version) for engine in world.engines) == [0, 0, 3]
    assert "no" in world.route().error


async def test_a_version_that_is_not_ready_everywhere_does_not_switch(world_of):
    world = await world_of(2)
    first, second = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, first)
    world.engines[1].misbehave.refuse[second] = (500, "disk trouble")
    world.routes.set_target("r", second)
    await world.ticks(controller, 40)
    assert world.route().version == first and "disk trouble" in world.route().error


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


async def test_asked_for_versions_are_loaded_but_not_routed(world: World):
    version = world.push()
    world.routes.create("r", exist_ok=True)
    controller = await world.controller()
    controller.ask_for(version)
    await world.ticks(controller, 3)
    assert world.snapshot().pinned[0].version == version
    assert world.published().arms[0].version == world.base.version
    world.clock.now += 700.0
    await controller.lease.refresh()
    await world.ticks(controller, 4, seconds=2.0)
    assert world.engines[0].adapters == {} and world.snapshot().pinned == ()


async def test_engines_that_are_not_configured_any_more_are_forgotten(world: World):
    from adapters.types import Replica

    world.fleet.upsert_replica(Replica("old", "http://gone", True, "b", 0.0))
    await world.controller()
    assert "old" not in [replica.name for replica in world.fleet.replicas()]


async def test_replica_rows_say_what_is(world: World):
    controller = await world.controller()
    await world.ticks(controller, 2)
    (row,) = world.fleet.replicas()
    assert row.up and row.url == world.engines[0].url and row.boot == str(world.engines[0].boot)
    assert (row.max_loras, row.max_cpu_loras) == (4, 8)
    world.engines[0].stop()
    await world.ticks(controller, 2)
    (row,) = world.fleet.replicas()
    assert not row.up and "cannot be reached" in row.error


async def test_the_same_on_both_databases(tmp_path, database, data_dir):
    async with open_world(tmp_path, database, data_dir, 2) as world:
        first, second = world.push(seed=1), world.push(seed=2, like=5)
        controller = await world.controller()
        await world.serve(controller, first)
        world.routes.set_target("r", second)
        await world.ticks(controller, 40)
        assert world.route().version == first and "does not reproduce" in world.route().error
        world.engines[1].restart()
        await world.ticks(controller, 4)
        assert world.published().arms[0].replicas == ("e0.sock", "e1.sock")
