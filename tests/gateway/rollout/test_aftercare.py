"""Harm that a comparison of two arms cannot see: to both at once, and after a promotion."""

from __future__ import annotations

import json

from adapters.rollouts import Phase
from adapters.types import Flag, Stage
from tests.support.rolling import kinds, pass_time, serving, until
from tests.support.traffic import Traffic, begin, empty, failing
from tests.support.world import World


async def test_harm_to_both_arms_takes_the_candidate_off_and_condemns_it_when_stable_recovers(
    world: World, traffic: Traffic
):
    controller, stable, candidate = await serving(world)
    traffic.ask(range(200))                        # stable's window before the rollout
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(100), empty("candidate", "stable"))
    await pass_time(world, controller, 3)
    held = world.rollouts.get(rollout.id)
    assert held.open and held.weight == 0.0 and held.state["hold"]["kind"] == "stable_arm"
    assert [arm.version for arm in world.published().arms] == [stable]
    world.clock.now += 2.0
    traffic.ask(range(100, 200))                   # without the candidate all is well again
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=8)
    assert "recovered without the candidate" in done.reason
    assert kinds(world, rollout.id) == ["started", "moved", "held", "rolled_back"]
    assert world.registry.get(candidate).stage is Stage.QUARANTINED


async def test_harm_that_outlasts_the_candidate_has_the_engines_restarted(world: World, traffic: Traffic, monkeypatch):
    controller, _stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    asked = []
    monkeypatch.setattr(
        "gateway.control_plane.fleet.ask_for_restart", lambda settings, site, boot, reason: asked.append(site.name) or True
    )
    for start in range(0, 6000, 100):
        traffic.ask(range(start, start + 100), empty("candidate", "stable"))
        await pass_time(world, controller, 1)
        if asked:
            break
    assert asked == ["e0.sock"] and "recycled" in kinds(world, rollout.id)
    assert world.rollouts.get(rollout.id).open     # that it is the candidate's fault is not shown


async def test_an_operator_may_let_the_candidate_serve_again(world: World, traffic: Traffic):
    from gateway.rollout.operations import resume

    controller, _stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(100), empty("candidate", "stable"))
    await pass_time(world, controller, 3)
    assert world.rollouts.get(rollout.id).weight == 0.0
    resume(world.rollouts, "r", actor="alice", now=world.clock.now)
    await pass_time(world, controller, 3)
    row = world.rollouts.get(rollout.id)
    assert row.weight == 0.2 and row.state["hold"] is None and len(world.published().arms) == 2


async def promoted(world: World, traffic: Traffic):
    controller, stable, candidate = await serving(world)
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    await until(world, controller, Phase.PROMOTED, each=lambda: traffic.ask(range(500)))
    return controller, stable, candidate


async def test_after_the_promotion_harm_leads_back_to_the_version_before(world: World, traffic: Traffic):
    controller, stable, candidate = await promoted(world, traffic)
    await pass_time(world, controller, 2)
    loads = world.engines[0].loads(stable)
    traffic.ask(range(60), failing("stable"))      # the promoted one is the stable arm now
    await pass_time(world, controller, 3)
    row = world.rollouts.newest()[0]
    assert row.phase is Phase.ROLLED_BACK and row.reason.startswith("after the promotion: error")
    assert [arm.version for arm in world.published().arms] == [stable] == [world.route().version]
    assert world.engines[0].loads(stable) == loads
    assert world.registry.get(candidate).stage is Stage.QUARANTINED
    (report,) = (world.settings.data_dir / "incidents").glob("*.json")
    body = json.loads(report.read_text())
    assert body["cause"] == "after_promotion" and body["timeline"][-1]["kind"] == "rolled_back"


async def test_without_harm_the_promoted_version_stays(world: World, traffic: Traffic):
    controller, _stable, candidate = await promoted(world, traffic)
    traffic.ask(range(300))
    await pass_time(world, controller, 4)
    assert world.rollouts.newest()[0].phase is Phase.PROMOTED and world.route().version == candidate


async def test_what_cannot_be_taken_back_is_not_tried_again_and_again(world: World, traffic: Traffic, monkeypatch):
    from adapters.errors import Conflict

    controller, _stable, _candidate = await promoted(world, traffic)
    tries = []

    def refuse(*args, **more):
        tries.append(args)
        raise Conflict("version is archived")

    monkeypatch.setattr("gateway.rollout.changes.serve_in", refuse)
    traffic.ask(range(60), failing("stable"))
    await pass_time(world, controller, 5)
    assert len(tries) == 1 and world.rollouts.newest()[0].phase is Phase.PROMOTED


async def test_another_version_set_by_hand_ends_the_watch(world: World, traffic: Traffic):
    controller, stable, _candidate = await promoted(world, traffic)
    await world.serve(controller, stable)
    traffic.ask(range(60), failing("stable"))
    await pass_time(world, controller, 3)
    assert world.rollouts.newest()[0].phase is Phase.PROMOTED and world.route().version == stable


async def test_engines_that_stay_bad_after_a_rollback_are_restarted(world: World, traffic: Traffic, monkeypatch):
    """A candidate whose activations overflow leaves NaN in the cache that stable uses too."""
    asked = []
    monkeypatch.setattr(
        "gateway.control_plane.fleet.ask_for_restart", lambda settings, site, boot, reason: asked.append(reason) or True
    )
    controller, _stable, candidate = await serving(world)
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    overflowing = {"status": 400, "outcome": "error", "flags": int(Flag.NON_FINITE)}
    traffic.ask(range(60), lambda arm, user: overflowing if arm.arm == "candidate" else {})
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=4)
    assert done.reason.startswith("non_finite")
    world.clock.now += 2.0
    traffic.ask(range(60), empty("stable"))
    await pass_time(world, controller, 3)
    assert len(asked) == 1 and "after the rollback" in asked[0]


async def test_one_outage_is_nobodys_fault_a_second_takes_the_candidate_off(world: World, traffic: Traffic):
    from gateway.rollout.operations import resume

    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    await pass_time(world, controller, 2)
    world.engines[0].restart()
    await pass_time(world, controller, 6)
    assert world.rollouts.get(rollout.id).weight == 0.2 and len(world.published().arms) == 2
    world.engines[0].restart()
    await pass_time(world, controller, 6)
    row = world.rollouts.get(rollout.id)
    assert row.open and row.weight == 0.0 and row.state["hold"]["kind"] == "engines"
    assert [arm.version for arm in world.published().arms] == [stable]
    resume(world.rollouts, "r", actor="alice", now=world.clock.now)
    await pass_time(world, controller, 2)
    assert world.rollouts.get(rollout.id).weight == 0.2 and len(world.published().arms) == 2
