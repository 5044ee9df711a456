"""A change of a rollout and the snapshot that carries it out: both or neither."""

from __future__ import annotations

import pytest

from adapters.errors import Conflict
from adapters.rollouts import Phase
from adapters.types import Stage
from gateway.rollout.changes import Change
from gateway.rollout.decide import Act, Action
from gateway.rollout.memory import Memory
from gateway.rollout.operations import pause
from gateway.rollout.plant import Readiness
from tests.support.rolling import pass_time, serving, until
from tests.support.traffic import begin
from tests.support.world import World

BACK = Action(Act.ROLL_BACK, "enough", cause="error")


async def ramping(world: World):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    return controller, stable, candidate, world.rollouts.get(rollout.id)


async def test_a_rollback_is_one_transaction_with_its_snapshot(world: World, monkeypatch):
    controller, stable, candidate, row = await ramping(world)
    before = world.snapshot()
    change = Change(row, Memory.from_state(row.state), BACK, world.clock.now)

    def fails(*_args, **_more):
        raise Conflict("no")

    with monkeypatch.context() as broken, pytest.raises(Conflict):
        broken.setattr("gateway.rollout.changes.change_in", fails)
        await controller._plant.commit(change)
    assert world.snapshot() == before and world.rollouts.get(row.id) == row
    done = await controller._plant.commit(change)
    assert done.phase is Phase.ROLLED_BACK and world.snapshot().id == before.id + 1
    assert [arm.version for arm in world.published().arms] == [stable]
    assert world.registry.get(candidate).stage is Stage.QUARANTINED


async def test_who_was_overtaken_publishes_nothing(world: World):
    controller, _, _, row = await ramping(world)
    pause(world.rollouts, "r", actor="alice", now=world.clock.now)
    before = world.snapshot()
    with pytest.raises(Conflict, match="changed meanwhile"):
        await controller._plant.commit(Change(row, Memory.from_state(row.state), BACK, world.clock.now))
    assert world.snapshot() == before and world.rollouts.get(row.id).open


async def test_who_does_not_lead_any_more_changes_nothing(world: World):
    controller, _, _, row = await ramping(world)
    world.clock.now += 60.0
    second = await world.controller("two")
    assert second.leads
    for action in (BACK, Action(Act.MOVE, "on", phase=Phase.RAMP, step=2, weight=0.5)):
        with pytest.raises(Conflict, match="another process leads"):
            await controller._plant.commit(Change(row, Memory.from_state(row.state), action, world.clock.now))
    assert world.rollouts.get(row.id).generation == row.generation
    await pass_time(world, second, 2)
    assert world.rollouts.get(row.id).open


async def test_readiness_tells_faults_from_obstacles(world: World):
    controller, stable, candidate, _ = await ramping(world)
    assert controller._plant.readiness(stable) == Readiness(ready=True)
    assert controller._plant.boots(candidate) == {"e0.sock": str(world.engines[0].boot)}
    assert "gone" in controller._plant.readiness("r@000000000000").obstacle
    world.registry.quarantine(candidate, "somebody", "NaN")
    controller._plant.view = await controller._view(world.clock.now)
    assert "NaN" in controller._plant.readiness(candidate).fault
