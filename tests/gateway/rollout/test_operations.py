"""What operators do, and what they may not; clocks, outages and wrong splits."""

from __future__ import annotations

import threading

import pytest

from adapters.errors import ConfigError, Conflict, DatabaseError, NotFound
from adapters.rollouts import Phase
from adapters.types import Stage
from gateway.data_plane.routing import bucket
from gateway.rollout.operations import pause, promote, resume, roll_back, set_weight
from tests.support.rolling import kinds, pass_time, serving, until
from tests.support.traffic import Traffic, begin, clear, failing, quick_plan, unit_of
from tests.support.world import World


async def ramping(world: World, plan=None):
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate, plan)
    await until(world, controller, Phase.RAMP)
    return controller, stable, candidate, rollout.id


def who(world: World, **more):
    return {"actor": "alice", "now": world.clock.now, **more}


async def test_what_cannot_be_rolled_out_is_refused(world: World):
    _controller, stable, candidate = await serving(world)

    def start(version, route="r"):
        world.rollouts.start(route, version, world.base.version, {}, actor="a")

    with pytest.raises(Conflict, match="understudy gate"):
        start(candidate)
    clear(world, candidate)
    with pytest.raises(Conflict, match="serves route r already"):
        start(stable)
    with pytest.raises(NotFound, match="route other does not exist"):
        start(candidate, "other")
    with pytest.raises(NotFound, match="does not exist"):
        start("r@000000000000")
    world.registry.quarantine(candidate, reason="NaN")
    with pytest.raises(Conflict, match="quarantined"):
        start(candidate)
    world.registry.release(candidate, reason="ok")
    third = world.push(seed=3)
    clear(world, third)
    world.routes.set_target("r", third)
    with pytest.raises(Conflict, match="about to switch"):
        start(candidate)
    assert world.rollouts.newest() == []


async def test_while_one_is_open_the_route_is_its(world: World):
    _controller, stable, candidate, _ = await ramping(world)
    third = world.push(seed=3)
    clear(world, third)
    for change in (
        lambda: begin(world, third), lambda: world.routes.set_target("r", third), lambda: world.routes.clear("r"),
        lambda: world.routes.delete("r"), lambda: world.registry.archive(candidate),
        lambda: world.registry.archive(stable),
    ):  # fmt: skip
        with pytest.raises(Conflict, match="rollout"):
            change()


async def test_pause_and_resume(world: World, traffic: Traffic):
    controller, _, _, number = await ramping(world)
    pause(world.rollouts, "r", **who(world, reason="lunch"))
    traffic.ask(range(600))
    await pass_time(world, controller, 6)
    row = world.rollouts.get(number)
    assert row.step == 1 and row.state["hold"]["reason"] == "lunch"
    with pytest.raises(Conflict, match="paused already"):
        pause(world.rollouts, "r", **who(world))
    resume(world.rollouts, "r", **who(world))
    with pytest.raises(Conflict, match="not paused"):
        resume(world.rollouts, "r", **who(world))
    await pass_time(world, controller, 6)
    assert world.rollouts.get(number).step == 2


async def test_harm_is_acted_on_while_paused(world: World, traffic: Traffic):
    controller, _, _, number = await ramping(world)
    pause(world.rollouts, "r", **who(world))
    traffic.ask(range(100), failing("candidate"))
    await controller.look()
    assert world.rollouts.get(number).phase is Phase.ROLLED_BACK


async def test_a_weight_by_hand_begins_the_steps_evidence_anew(world: World, traffic: Traffic):
    controller, _, _, number = await ramping(world)
    row = set_weight(world.rollouts, "r", 0.4, **who(world, reason="braver"))
    assert (row.weight, row.step, row.state["credited"]) == (0.4, 1, 0.0)
    await pass_time(world, controller, 1)
    assert world.published().arms[0].high == 0.4
    for wrong in (0.0, 1.0, 1.5, -0.1):
        with pytest.raises(ConfigError, match="use promote"):
            set_weight(world.rollouts, "r", wrong, **who(world))
    with pytest.raises(Conflict, match="already"):
        set_weight(world.rollouts, "r", 0.4, **who(world))
    assert set_weight(world.rollouts, "r", 0.6, **who(world)).step == 2
    event = world.rollouts.events(number)[2]
    assert event.actor == "alice" and "0.2 → 0.4" in event.reason and "braver" in event.reason


async def test_promote_skips_steps_and_says_so(world: World):
    controller, stable, candidate, number = await ramping(world)
    promote(world.rollouts, "r", **who(world, reason="demo at noon"))
    await pass_time(world, controller, 2)
    row = world.rollouts.get(number)
    assert row.phase is Phase.PROMOTED and world.route().version == candidate and world.route().previous == stable
    event = world.rollouts.events(number)[-1]
    assert event.actor == "alice" and event.numbers["skipped_from"]["weight"] == 0.2 and "demo at noon" in event.reason


async def test_a_pause_withdraws_a_promotion_that_waits(world: World):
    controller, stable, _, number = await ramping(world)
    world.engines[0].misbehave.hang = True
    promote(world.rollouts, "r", **who(world))
    pause(world.rollouts, "r", **who(world, reason="on second thoughts"))
    world.engines[0].misbehave.hang = False
    await pass_time(world, controller, 3)
    row = world.rollouts.get(number)
    assert row.open and row.state["hold"]["reason"] == "on second thoughts" and world.route().version == stable


async def test_a_promoted_version_can_be_taken_back_by_hand(world: World):
    controller, stable, candidate, number = await ramping(world)
    promote(world.rollouts, "r", **who(world))
    await pass_time(world, controller, 2)
    roll_back(world.rollouts, "r", **who(world, reason="users complain"))
    await pass_time(world, controller, 1)
    assert [arm.version for arm in world.published().arms] == [stable] == [world.route().version]
    assert world.registry.get(candidate).stage is Stage.QUARANTINED
    with pytest.raises(NotFound, match="no rollout that could be rolled back"):
        roll_back(world.rollouts, "r", **who(world))
    assert kinds(world, number)[-1] == "rolled_back"


async def test_nothing_can_be_steered_before_the_candidate_is_loaded(world: World):
    _controller, _stable, candidate = await serving(world)
    begin(world, candidate)
    for change in (promote, lambda store, route, **more: set_weight(store, route, 0.1, **more)):
        with pytest.raises(Conflict, match="still preparing"):
            change(world.rollouts, "r", **who(world))
    with pytest.raises(NotFound, match="no open rollout"):
        pause(world.rollouts, "none", **who(world))


async def test_two_operators_at_once(world: World):
    """Whoever saw an older generation is told so; of two that write together exactly one does."""
    _, _, _, number = await ramping(world)
    seen = world.rollouts.get(number).generation
    set_weight(world.rollouts, "r", 0.3, **who(world, generation=seen))
    with pytest.raises(Conflict, match=f"expected {seen}; now ramp at 0.3"):
        set_weight(world.rollouts, "r", 0.4, **who(world, generation=seen))
    generation, results = world.rollouts.get(number).generation, []

    def race(weight: float) -> None:
        try:
            set_weight(world.rollouts, "r", weight, **who(world, generation=generation))
            results.append(weight)
        except Conflict:
            results.append(None)

    threads = [threading.Thread(target=race, args=(0.31 + n / 100,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(None) == 5 and world.rollouts.get(number).generation == generation + 1
    assert world.rollouts.get(number).weight in results


@pytest.mark.parametrize("jump", [1e6, -1e6])
async def test_a_clock_that_jumps_promotes_nobody_early(world: World, traffic: Traffic, jump):
    steps = [{"weight": "50%", "min_units": 5, "min_duration": "1h", "advance": "evidence"}]
    controller, _, _, number = await ramping(world, quick_plan(step=steps))
    traffic.ask(range(800))
    await pass_time(world, controller, 3)
    world.clock.now += jump
    await controller.lease.refresh()
    await pass_time(world, controller, 3)
    row = world.rollouts.get(number)
    assert row.open and row.phase is Phase.RAMP and row.state["hold"] is None
    assert controller.rollouts.watched[number].course.memory.credited < 30


async def test_time_without_a_verdict_is_held_not_promoted(world: World, traffic: Traffic):
    steps = [{"weight": "50%", "min_units": 50, "min_duration": "1s", "max_duration": "3s", "advance": "evidence"}]
    controller, _, _, number = await ramping(world, quick_plan(step=steps))
    traffic.ask(range(10))
    await pass_time(world, controller, 8)
    row = world.rollouts.get(number)
    assert row.open and row.state["hold"]["kind"] == "inconclusive" and row.weight == 0.5


async def test_a_wrong_split_voids_the_step(world: World, traffic: Traffic):
    controller, _, _, number = await ramping(world)
    edge = 0.2
    mine = [n for n in range(4000) if bucket(b"r", unit_of(n)) < edge]
    others = [n for n in range(4000) if bucket(b"r", unit_of(n)) >= edge]
    traffic.ask(mine + others[: len(mine)])        # half and half where 20 : 80 is configured
    await pass_time(world, controller, 6)
    row = world.rollouts.get(number)
    assert row.open and row.step == 1 and "not split as configured" in row.state["hold"]["reason"]


async def test_a_lost_database_holds_everything(world: World, traffic: Traffic, monkeypatch):
    controller, _, _, number = await ramping(world)
    published = world.snapshot()

    def away(*_args, **_more):
        raise DatabaseError("the database is away")

    with monkeypatch.context() as broken:
        for store, name in ((world.fleet, "registry_revision"), (world.evidence, "ends"), (world.rollouts, "within")):
            broken.setattr(store, name, away)
        for _ in range(3):
            await controller._round()
    assert world.snapshot() == published and world.rollouts.get(number).open
    traffic.ask(range(100), failing("candidate"))
    await pass_time(world, controller, 2)
    assert world.rollouts.get(number).phase is Phase.ROLLED_BACK


async def test_losing_only_the_evidence_holds_too(world: World, traffic: Traffic, monkeypatch):
    controller, _, _, number = await ramping(world)

    def away(*_args, **_more):
        raise DatabaseError("the database is away")

    traffic.ask(range(600))
    with monkeypatch.context() as broken:
        broken.setattr(world.stores.sums, "units", away)
        await pass_time(world, controller, 5)
    assert world.rollouts.get(number).step == 1
    await pass_time(world, controller, 5)
    assert world.rollouts.get(number).step == 2


async def test_a_gate_that_failed_meanwhile_holds_the_promotion(world: World):
    from adapters.gates import GateVerdict, record_gate

    controller, stable, candidate, number = await ramping(world)
    with world.database.begin() as connection:
        record_gate(connection, candidate, GateVerdict.FAILED, reason="slice arithmetic", actor="test")
    promote(world.rollouts, "r", **who(world))
    await pass_time(world, controller, 3)
    row = world.rollouts.get(number)
    assert row.open and world.route().version == stable and "slice arithmetic" in row.state["hold"]["reason"]


async def test_testers_are_pinned_by_their_hash(world: World):
    controller, _stable, candidate = await serving(world)
    controller._hash_unit = lambda owner, unit: f"{owner}:{unit}".encode().ljust(8, b".")[:8]
    begin(world, candidate, quick_plan(tester=[{"unit": "bob"}, {"unit": "eve", "owner": "a"}], breaker=7))
    await until(world, controller, Phase.RAMP)
    state = world.published()
    assert {bytes.fromhex(tester.unit) for tester in state.testers} == {b":bob....", b"a:eve..."}
    assert state.breaker == 7 and state.rollout == 1
    row = world.fleet.assignments_by_id(state.testers[0].assignment)
    assert row is not None and (row["arm"], row["version"]) == ("tester", candidate)


async def test_a_quarantine_from_elsewhere_ends_it(world: World):
    controller, stable, candidate, number = await ramping(world)
    world.registry.quarantine(candidate, "somebody", "NaN seen elsewhere")
    await pass_time(world, controller, 2)
    row = world.rollouts.get(number)
    assert row.phase is Phase.ROLLED_BACK and "NaN seen elsewhere" in row.reason
    assert [arm.version for arm in world.published().arms] == [stable]


async def test_the_shadow_is_mirrored_and_judged_by_pairs(world: World, traffic: Traffic):
    metric = [{"name": "reward", "role": "primary", "margin": 0.1, "margin_unit": "absolute"}, {"name": "error"}]
    plan = quick_plan(shadow={"sample": 0.5, "min_pairs": 20, "min_duration": "1s"}, metric=metric)
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate, plan)
    await until(world, controller, Phase.SHADOW)
    shadow = world.published().shadow
    assert shadow and (shadow.version, shadow.sample, shadow.replicas) == (candidate, 0.5, ("e0.sock",))
    assert [arm.version for arm in world.published().arms] == [stable]
    traffic.mirror(rollout.id, range(40), lambda user: (0.5, 0.6))
    await until(world, controller, Phase.RAMP, ticks=20)
    assert world.published().shadow is None


async def test_a_worse_shadow_is_taken_back_before_any_user_saw_it(world: World, traffic: Traffic):
    metric = [{"name": "reward", "role": "primary", "margin": 0.05, "margin_unit": "absolute"}, {"name": "error"}]
    plan = quick_plan(shadow={"sample": 0.5, "min_pairs": 20, "min_duration": "1s"}, metric=metric)
    controller, stable, candidate = await serving(world)
    rollout = begin(world, candidate, plan)
    await until(world, controller, Phase.SHADOW)
    traffic.mirror(rollout.id, range(150), lambda user: (1.0, 0.0))
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=20)
    assert done.reason.startswith("reward") and world.published().shadow is None
    assert [arm.version for arm in world.published().arms] == [stable]
