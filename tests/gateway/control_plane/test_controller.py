from __future__ import annotations

import pytest

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
