"""Several candidates in one rollout, tick by tick: one is dropped alone, the best of the others is promoted."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from adapters.errors import ConfigError, Conflict
from adapters.rollout_store import BREAKER
from adapters.rollouts import Phase, RolloutEvent
from adapters.snapshot import Arm
from adapters.types import Stage
from gateway.rollout.arms import CANDIDATE, HOLDOUT, SHADOW, STABLE
from gateway.rollout.decide import Facts
from gateway.rollout.listing import as_json
from gateway.rollout.operations import promote, roll_back, set_weight, start
from gateway.rollout.rivals import Judged, combined, conclude
from monitors.analysis import Analysis, Measurements, Verdict
from tests.gateway.rollout.test_crashes import Crash, Killed
from tests.support.records import Records
from tests.support.rolling import kinds, pass_time, until
from tests.support.traffic import Traffic, begin, clear, quick_plan
from tests.support.world import World


def plan(**more: Any):
    steps = [
        {"weight": "30%", "min_units": 20, "min_duration": "1s"},
        {"weight": "60%", "min_units": 100, "min_duration": "1s", "advance": "evidence"},
    ]
    metrics = [{"name": "error", "margin": 0.2}, {"name": "tokens", "role": "primary", "margin": 1.3}]
    return quick_plan(step=steps, metric=metrics, **more)


async def rolling(world: World, **more: Any):
    """(controller, stable, the three candidates, the rollout) in the first step."""
    stable, *three = [world.push(seed=seed) for seed in (1, 2, 3, 4)]
    controller = await world.controller()
    await world.serve(controller, stable)
    rollout = begin(world, three[0], plan(**more), rivals=three[1:])
    return controller, stable, three, rollout


def asks(traffic: Traffic, failing: Collection[str] = (), terse: str = ""):
    """Asks 300 new users at each call: some versions fail, one answers with fewer tokens."""
    users = itertools.count(step=300)

    def answer(arm: Arm, user: int) -> dict[str, Any]:
        bad = {"status": 500, "outcome": "error"} if arm.version in failing else {}
        return {"output_tokens": 20 + user % 5 - 8 * (arm.version == terse), **bad}

    def more() -> None:
        first = next(users)
        traffic.ask(range(first, first + 300), answer)

    return more


def arms(world: World) -> list[tuple[str, str, float, float]]:
    return [(arm.arm, arm.version, round(arm.low, 4), round(arm.high, 4)) for arm in world.published().arms]


async def test_a_bad_one_is_dropped_alone_and_the_best_of_the_others_promoted(world: World, traffic: Traffic):
    controller, stable, (bad, fair, good), rollout = await rolling(world)
    row = await until(world, controller, Phase.RAMP)
    assert [(a, v) for a, v, *_ in arms(world)] == [(CANDIDATE, bad), (STABLE, stable), (CANDIDATE, fair),
                                                    (STABLE, stable), (CANDIDATE, good), (STABLE, stable)]  # fmt: skip
    before = arms(world)
    asks(traffic, [bad])()
    await controller.look()
    row = world.rollouts.get(rollout.id)
    assert (row.phase, row.step, row.weight, row.generation) == (Phase.RAMP, 1, 0.3, row.generation)
    assert arms(world) == [(HOLDOUT, stable, *before[0][2:]), *before[1:]]
    assert world.registry.get(bad).stage is Stage.QUARANTINED and world.registry.get(good).stage is Stage.CANDIDATE
    last = world.rollouts.events(rollout.id)[-1]
    assert (last.kind, last.numbers["candidate"], last.numbers["cause"]) == ("dropped", bad, "error")
    assert last.reason.startswith(f"{bad}: error: ") and last.numbers["log_e"] >= last.numbers["threshold"]
    await pass_time(world, controller, 1)
    (report,) = (world.settings.data_dir / "incidents").glob("*.md")
    assert f"Rollback of {bad}" in report.read_text() and fair in report.read_text()
    body = as_json(world.rollouts.get(rollout.id), report.parent)
    assert [c["state"] for c in body["candidates"]] == ["dropped", "open", "open"]
    assert [c["share"] for c in body["candidates"]] == pytest.approx([0.0, 0.1, 0.1])
    assert body["candidates"][0]["incident"] == str(report) and body["candidates"][0]["harm"][0]["verdict"] == "fail"

    done = await until(world, controller, Phase.PROMOTED, each=asks(traffic, terse=good))
    assert (done.candidate, set(done.rivals)) == (good, {bad, fair}) and world.route().version == good
    assert kinds(world, rollout.id) == ["started", "moved", "dropped", "moved", "promoted"]
    assert f"the best of 2 that passed ({fair})" in done.reason
    assert world.registry.get(good).stage is Stage.RELEASED and world.registry.get(fair).stage is Stage.CANDIDATE
    assert [c["state"] for c in as_json(done)["candidates"]] == ["promoted", "dropped", "not promoted"]
    roll_back(world.rollouts, "r", actor="alice", now=world.clock.now)  # within the bake time: the promoted one alone
    assert world.registry.get(good).stage is Stage.QUARANTINED and world.registry.get(fair).stage is Stage.CANDIDATE


async def test_when_all_are_bad_stable_serves_everybody(world: World, traffic: Traffic):
    controller, stable, three, rollout = await rolling(world)
    await until(world, controller, Phase.RAMP)
    asks(traffic, three)()
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=6)
    assert [arm.version for arm in world.published().arms] == [stable] and world.published().rollout == 0
    assert {world.registry.get(version).stage for version in three} == {Stage.QUARANTINED}
    assert kinds(world, rollout.id) == ["started", "moved", "dropped", "dropped", "rolled_back"]
    await pass_time(world, controller, 4)
    assert len(list((world.settings.data_dir / "incidents").glob("*.md"))) == 3 and done.candidate == three[2]


async def test_a_worker_trips_for_one(world: World):
    controller, _stable, (first, second, third), rollout = await rolling(world)
    await until(world, controller, Phase.RAMP)
    assignment = next(arm.assignment for arm in world.published().arms if arm.version == second)
    world.rollouts.note(
        rollout, RolloutEvent(BREAKER, "5 in a row", "worker 7", {"assignment": assignment}), world.clock.now
    )
    await pass_time(world, controller, 2)
    row = world.rollouts.get(rollout.id)
    assert row.open and list(row.state["dropped"]) == [second]
    assert {arm.version for arm in world.published().arms if arm.arm == CANDIDATE} == {first, third}


async def test_one_that_cannot_be_loaded_is_dropped_and_the_others_begin(world: World):
    stable, *three = [world.push(seed=seed) for seed in (1, 2, 3, 4)]
    controller = await world.controller()
    await world.serve(controller, stable)
    world.engines[0].misbehave.refuse[three[0]] = (500, "out of memory")
    rollout = begin(world, three[0], plan(), rivals=three[1:])
    await until(world, controller, Phase.RAMP, ticks=80)
    assert kinds(world, rollout.id) == ["started", "dropped", "moved"]
    assert arms(world)[0][:2] == (HOLDOUT, stable) and arms(world)[2][:2] == (CANDIDATE, three[1])


async def test_the_shadow_shows_harm_of_one(world: World, traffic: Traffic):
    metrics = [{"name": "reward", "role": "primary", "margin": 0.1, "margin_unit": "absolute"}]
    shadow = {"sample": 0.6, "min_pairs": 50, "min_duration": "1s", "concurrency": 4}
    body = plan().model_dump(mode="json", by_alias=True) | {"metric": metrics, "shadow": shadow}
    stable, *three = [world.push(seed=seed) for seed in (1, 2, 3, 4)]
    controller = await world.controller()
    await world.serve(controller, stable)
    rollout = begin(world, three[0], quick_plan(**body), rivals=three[1:])
    await until(world, controller, Phase.SHADOW)
    mirrors = {shadow.version: shadow for shadow in world.published().mirrored}
    assert {v: round(m.sample, 6) for v, m in mirrors.items()} == dict.fromkeys(three, 0.2)
    assert {mirror.concurrency for mirror in mirrors.values()} == {1}
    for version, mirror in mirrors.items():
        traffic.mirror(rollout.id, range(200), lambda _, v=version: (1.0, 0.2 if v == three[1] else 1.0), mirror.assignment)
    await until(world, controller, Phase.RAMP)
    assert kinds(world, rollout.id) == ["started", "moved", "dropped", "moved"]
    assert list(world.rollouts.get(rollout.id).state["dropped"]) == [three[1]]
    stored = [row.arm for row in world.evidence.arms(rollout.id).values()]
    assert stored.count(SHADOW) == 3


@pytest.mark.parametrize(("number", "after"), [(1, True), (2, False), (2, True)])
async def test_killed_while_one_is_dropped(world: World, traffic: Traffic, number, after):
    """Its bad events are written first; then it is dropped, quarantined and off the snapshot in one transaction."""
    controller, _stable, (bad, fair, good), rollout = await rolling(world)
    await until(world, controller, Phase.RAMP)
    crash = Crash(world, number, after)
    asks(traffic, [bad])()
    with pytest.raises(Killed):
        await controller.look()
    world.clock.now += 7.0      # the lease runs out
    row = world.rollouts.get(rollout.id)
    done = (number, after) == (2, True)
    assert (bad in row.state["dropped"], any(arm.version == bad for arm in world.published().arms)) == (done, not done)
    second = await world.controller("two")
    await pass_time(world, second, 4)
    assert crash.calls[0] == "evidence.add_bad_events" and "fleet.publish" in crash.calls
    happened = kinds(world, rollout.id)
    assert happened[:3] == ["started", "moved", "dropped"] and happened.count("dropped") == 1
    assert world.registry.get(bad).stage is Stage.QUARANTINED
    assert {arm.version for arm in world.published().arms if arm.arm == CANDIDATE} == {fair, good}
    assert len(list((world.settings.data_dir / "incidents").glob("*.md"))) == 1


async def test_operators_name_the_candidate(world: World):
    controller, _stable, (first, second, third), rollout = await rolling(world)
    await until(world, controller, Phase.RAMP)
    who: dict[str, Any] = {"actor": "alice", "now": world.clock.now}
    with pytest.raises(ConfigError, match=rf"several candidates: name the version \({first}, {second}, {third}\)"):
        promote(world.rollouts, "r", **who)
    with pytest.raises(Conflict, match="is no candidate of rollout"):
        promote(world.rollouts, "r", "r@999999999999", **who)
    row = roll_back(world.rollouts, "r", second, **who, reason="too chatty")
    assert row.open and world.registry.get(second).stage is Stage.QUARANTINED
    assert world.rollouts.events(rollout.id)[-1].reason == f"{second}: too chatty"
    with pytest.raises(Conflict, match="is no candidate of rollout"):
        roll_back(world.rollouts, "r", second, **who)
    row = set_weight(world.rollouts, "r", 0.45, **who)
    await pass_time(world, controller, 2)
    shares = {arm.version: arm.high - arm.low for arm in world.published().arms if arm.arm == CANDIDATE}
    assert shares == pytest.approx({first: 0.15, third: 0.15})
    with pytest.raises(Conflict, match=r"rollout 1 of .* open"):
        begin(world, first)
    with pytest.raises(Conflict, match="is in rollout 1"):
        world.registry.archive(third)
    promote(world.rollouts, "r", third, actor="alice", now=world.clock.now)
    done = await until(world, controller, Phase.PROMOTED)
    assert (done.candidate, world.route().version) == (third, third) and row.generation < done.generation


async def test_what_cannot_begin(world: World):
    stable, first, second = [world.push(seed=seed) for seed in (1, 2, 3)]
    controller = await world.controller()
    await world.serve(controller, stable)
    clear(world, first)
    named: dict[str, Any] = {"base": world.base.version, "actor": "test"}
    for rivals, plan_of, words in (
        ((first,), plan(), "named twice"), ((second,), plan(split=[1, 1, 1]), "splits the weight among 3"),
        ((second,), plan(), "no gate has passed"), ((stable,), plan(), "serves route r already"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, Conflict), match=words):
            start(world.rollouts, "r", first, plan_of, rivals=rivals, **named)
    assert world.rollouts.newest() == []


def test_the_split_is_tested_over_all_arms(database):
    """Half of one candidate's users lost: a mismatch that voids the step for every candidate."""
    records = Records(database, plan(), weight=0.3, rivals=["r@333333333333", "r@444444444444"])
    ids = {v: records.assignment(CANDIDATE, 0.1, version=v) for v in records.rollout.candidates}
    stable = records.assignment(STABLE, 0.7, version=records.rollout.stable)
    users = itertools.count()
    for assignment, count in ((ids[records.rollout.candidate], 60), (ids["r@333333333333"], 120),
                              (ids["r@444444444444"], 120), (stable, 840)):  # fmt: skip
        for _ in range(count):
            records.answer(assignment, next(users))
    from adapters.evidence_store import EvidenceStore
    from adapters.evidence_sums import EvidenceSums
    from gateway.rollout.measure import measure_each, rules

    course = records.course(credited=5.0)
    found = measure_each(EvidenceSums(database), course, EvidenceStore(database).arms(records.rollout.id), {})
    one = found["r@333333333333"]
    assert one.ratio_counts == (60, 120, 120, 840) and one.ratio_weights == pytest.approx((0.1, 0.1, 0.1, 0.7))
    assert (one.candidate_units, one.stable_units) == (120, 840)
    judged = conclude(course, rules(course), found)
    assert judged.together.metric == "ratio_mismatch" and judged.together.final and judged.best == ""


def test_facts_of_several_and_of_the_last_one():
    passed = Analysis(Verdict.PASS, "it is fine")
    judged = Judged(passed, {"b": passed}, "b")
    own = Facts(ready=True, fault="it cannot be loaded")
    several = combined({"a": own, "b": replace(own, ready=False, fault="")}, judged)
    assert not several.ready and several.fault == "" and several.best == "b" and set(several.each) == {"a", "b"}
    single = combined({"b": own}, judged)
    assert single == replace(own, analysis=passed, best="b")
    assert combined({"b": own}, None).analysis is None and Measurements(0.0).ratio_counts == ()
