"""A rollout from start to end, tick by tick, over a real database and fake engines."""

from __future__ import annotations

import asyncio

import pytest

from adapters.rollouts import Phase
from adapters.types import Stage
from gateway.rollout.operations import resume, roll_back
from tests.support.rolling import kinds, serving, until
from tests.support.traffic import Traffic, begin, failing, quick_plan
from tests.support.waiting import PATIENCE
from tests.support.world import World, impatient


async def test_a_good_version_is_promoted_on_evidence(world: World, traffic: Traffic):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    arms = {arm.arm: (arm.low, arm.high, arm.version) for arm in world.published().arms}
    assert arms == {"candidate": (0.0, 0.2, candidate), "stable": (0.2, 1.0, stable)}
    users = iter(range(0, 100_000, 400))

    def more():
        first = next(users)
        traffic.ask(range(first, first + 400))

    done = await until(world, controller, Phase.PROMOTED, each=more)
    assert done.ended_at and world.route().version == candidate and world.route().previous == stable
    assert world.registry.get(candidate).stage is Stage.RELEASED
    (arm,) = world.published().arms
    assert (arm.arm, arm.version, world.published().rollout) == ("stable", candidate, 0)
    assert kinds(world, rollout.id) == ["started", "moved", "moved", "promoted"]
    last = world.rollouts.events(rollout.id)[-1]
    assert last.numbers["verdict"] == "pass" and last.numbers["findings"]


async def test_without_traffic_nothing_goes_forward(world: World):
    controller, _stable, candidate = await serving(world)
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    await world.ticks(controller, 20, seconds=1.0)
    row = world.rollouts.newest()[0]
    assert (row.phase, row.step, row.weight) == (Phase.RAMP, 1, 0.2)


async def test_a_failing_version_is_taken_back_at_once(world: World, traffic: Traffic):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(100), failing("candidate"))
    await controller.look()
    done = world.rollouts.get(rollout.id)
    assert done.phase is Phase.ROLLED_BACK and done.reason.startswith("error: ")
    (arm,) = world.published().arms
    assert (arm.version, arm.high) == (stable, 1.0)
    quarantined = world.registry.get(candidate)
    assert quarantined.stage is Stage.QUARANTINED and f"rollout {rollout.id}" in quarantined.reason
    last = world.rollouts.events(rollout.id)[-1]
    assert last.kind == "rolled_back" and last.numbers["log_e"] >= last.numbers["threshold"]


async def test_errors_of_both_arms_condemn_nobody(world: World, traffic: Traffic):
    controller, _stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(40), lambda arm, user: {"status": 502, "outcome": "error", "flags": 16})
    await world.ticks(controller, 3)
    assert world.rollouts.get(rollout.id).open and world.published().rollout == rollout.id


@pytest.mark.parametrize("metric", ["refuse", "wrong"])
async def test_a_version_that_fails_on_one_replica_is_taken_back(world_of, metric):
    world = await world_of(2)
    stable, candidate = world.push(seed=1), world.push(seed=2, like=3) if metric == "wrong" else world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, stable)
    if metric == "refuse":
        world.engines[1].misbehave.refuse[candidate] = (500, "out of memory")
    rollout = begin(world, candidate)
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=80)
    assert done.id == rollout.id and ("e1.sock" in done.reason or metric == "wrong")
    assert world.registry.get(candidate).stage is Stage.QUARANTINED
    assert [arm.version for arm in world.published().arms] == [stable]


async def test_no_free_slot_is_not_the_versions_fault(world_of):
    world = await world_of(1, max_loras=1, max_cpu_loras=1)
    stable, candidate = world.push(seed=1), world.push(seed=2)
    controller = await world.controller()
    await world.serve(controller, stable)
    begin(world, candidate)
    done = await until(world, controller, Phase.ABORTED)
    assert "no free slot" in done.reason
    assert world.registry.get(candidate).stage is Stage.CANDIDATE


async def test_from_the_base(world: World, traffic: Traffic):
    candidate = world.push(seed=2)
    controller = await world.controller()
    rollout = begin(world, candidate)
    assert rollout.stable == world.base.version
    await until(world, controller, Phase.RAMP)
    assert {arm.arm: arm.model for arm in world.published().arms} == {"candidate": candidate, "stable": "base"}
    traffic.ask(range(60), failing("candidate"))
    await controller.look()
    (arm,) = world.published().arms
    assert arm.model == "base" and arm.replicas == ("e0.sock",)


async def test_an_engine_that_restarts_costs_no_answer(world: World):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    impatient(controller)
    world.engines[0].misbehave.held_up.add(candidate)  # its load takes longer than a look waits for it
    world.engines[0].restart()
    seen = []

    async def until_published(*arms: tuple[str, bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not seen or seen[-1] != arms:
                await world.ticks(controller, 1)
                seen.append(tuple((arm.version, bool(arm.replicas)) for arm in world.published().arms))

    await until_published((stable, True))  # stable came back first, and served everybody
    world.engines[0].misbehave.held_up.clear()
    await until_published((candidate, True), (stable, True))
    assert ((candidate, False), (stable, True)) not in seen
    assert world.rollouts.get(rollout.id).open


async def test_what_an_operator_does_is_seen_at_the_next_look(world: World):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    roll_back(world.rollouts, "r", actor="alice", reason="I do not like it", now=world.clock.now)
    await controller.look()
    assert [arm.version for arm in world.published().arms] == [stable]
    assert world.rollouts.events(rollout.id)[-1].actor == "alice"


async def test_manual_approval_holds(world: World, traffic: Traffic):
    plan = quick_plan(step=[
        {"weight": "50%", "min_units": 20, "min_duration": "1s", "approval": "manual", "advance": "evidence"}
    ])  # fmt: skip
    controller, _stable, candidate = await serving(world)
    rollout = begin(world, candidate, plan)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(800))
    await world.ticks(controller, 12, seconds=1.0)
    held = world.rollouts.get(rollout.id)
    assert held.open and held.state["hold"]["kind"] == "approval"
    resume(world.rollouts, "r", actor="alice", now=world.clock.now)
    await until(world, controller, Phase.PROMOTED)


async def test_two_routes_do_not_disturb_each_other(world: World, traffic: Traffic):
    controller, stable, candidate = await serving(world)
    other = world.push("s", seed=3)
    bad = begin(world, candidate)
    good = begin(world, other, route="s")
    for _ in range(10):
        await world.ticks(controller, 1, seconds=0.5)
        if all(world.rollouts.get(r.id).phase is Phase.RAMP for r in (bad, good)):
            break
    Traffic(world, "s").ask(range(200))
    traffic.ask(range(100), failing("candidate"))
    await controller.look()
    assert world.rollouts.get(bad.id).phase is Phase.ROLLED_BACK and world.rollouts.get(good.id).open
    assert [arm.version for arm in world.published("r").arms] == [stable]
    assert {arm.version for arm in world.published("s").arms} == {other, world.base.version}


async def test_a_bug_in_one_rollout_holds_up_nobody_else(world: World, traffic: Traffic, monkeypatch, caplog):
    controller, _stable, candidate = await serving(world)
    broken = begin(world, candidate)
    other = begin(world, world.push("s", seed=3), route="s")
    await world.ticks(controller, 1)
    controller.rollouts.watched[broken.id].evidence = None
    for _ in range(10):
        await world.ticks(controller, 1, seconds=0.5)
    assert world.rollouts.get(other.id).phase is Phase.RAMP and "could not be looked at" in caplog.text
    assert len(world.published("s").arms) == 2 and world.published("r").arms[0].replicas


async def test_a_row_of_another_release_stands_still(world: World):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    row = world.rollouts.get(rollout.id)
    from adapters.rollouts import RolloutEvent

    world.rollouts.change(row, RolloutEvent("moved", "x"), plan={"name": "newer", "strategy": "wild"}, phase="ramp")
    await world.ticks(controller, 4)
    assert [arm.version for arm in world.published().arms] == [stable] and world.rollouts.get(row.id).open
