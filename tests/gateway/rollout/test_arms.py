"""Arms: a partition at any weight, ramps that only widen, the split as configured, and what one without it looks like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rollouts import Phase, Rollout
from adapters.snapshot import (
    Arm,
    Endpoint,
    PinnedVersion,
    RouteState,
    Shadow,
    Snapshot,
    check_partition,
    from_json,
    to_json,
)
from gateway.data_plane.routing import bucket
from gateway.rollout.arms import (
    CANDIDATE,
    HOLDOUT,
    SHADOW,
    STABLE,
    TESTER,
    Course,
    intervals,
    odds,
    odds_of_one,
    pin_key,
    shadow_keys,
    without_candidate,
    without_one,
)
from gateway.rollout.memory import Hold, HoldKind, Memory
from gateway.rollout.plan import to_json as plan_json
from monitors.stats.ratio_mismatch import chi_square_p
from tests.support.traffic import quick_plan

C, S = "r@222222222222", "r@111111111111"
ROW = Rollout(7, "r", C, S, {}, Phase.RAMP, 1, 0.2, 3, 0.0, 0.0)


def course(weight=0.2, phase=Phase.RAMP, holdout="0%", hold=None, **plan) -> Course:
    made = quick_plan(holdout=holdout, **plan)
    row = replace(ROW, weight=weight, phase=phase, plan=plan_json(made), step=1 if phase is Phase.RAMP else 0)
    return Course(row, made, Memory(hold=hold))


def state(parts) -> RouteState:
    return RouteState("r", "r", tuple(Arm(1, p.key.arm, p.key.version, p.key.version, p.low, p.high, ()) for p in parts))


@given(st.floats(1e-6, 0.5), st.sampled_from(["0%", "1%", "10%", "33.3%", "49%"]), st.booleans())
def test_the_arms_always_partition(weight, holdout, available):
    check_partition(state(intervals(course(weight, holdout=holdout), () if available else [C])))


@given(st.binary(min_size=8, max_size=8), st.lists(st.floats(0.001, 0.9), min_size=2, max_size=6))
def test_a_ramp_moves_nobody_back(unit, weights):
    point, seen = bucket(b"r", unit), False
    for weight in sorted(weights):
        parts = intervals(course(weight, holdout="10%"), ())
        arm = next(part.key.arm for part in parts if point < part.high)
        assert not (seen and arm != CANDIDATE)
        seen = arm == CANDIDATE
        assert (arm == HOLDOUT) == (point >= 0.9)


def test_the_split_is_as_configured():
    parts = intervals(course(0.2, holdout="10%"), ())
    counts = dict.fromkeys((CANDIDATE, STABLE, HOLDOUT), 0)
    for number in range(20_000):
        point = bucket(b"r", number.to_bytes(8, "big"))
        counts[next(part.key.arm for part in parts if point < part.high)] += 1
    assert chi_square_p(list(counts.values()), [0.2, 0.7, 0.1]) > 0.001


def test_while_nobody_holds_the_candidate_stable_serves_everybody():
    (stable,) = intervals(course(0.2), [C])
    assert (stable.key.arm, stable.low, stable.high, stable.key.share) == (STABLE, 0.0, 1.0, 1.0)


def test_shares_and_steps_are_in_the_assignments():
    candidate, stable, holdout = intervals(course(0.2, holdout="10%"), ())
    assert (candidate.key.share, candidate.key.rollout, candidate.key.step) == (0.2, 7, 1)
    assert stable.key.share == pytest.approx(0.7) and holdout.key.share == pytest.approx(0.1)


@given(st.floats(0.001, 0.89), st.sampled_from(["0%", "10%"]))
def test_both_arms_say_the_same_odds(weight, holdout):
    parts = {p.key.arm: p.key for p in intervals(course(weight, holdout=holdout), ())}
    plan = course(holdout=holdout).plan
    candidate, stable = (odds(arm, parts[arm].share, plan) for arm in (CANDIDATE, STABLE))
    assert candidate == pytest.approx(stable, abs=1e-9) and candidate == pytest.approx(weight / (1 - plan.holdout_share))


def test_what_is_not_compared_has_no_odds():
    plan = course().plan
    assert odds(STABLE, 1.0, plan) is None and odds(CANDIDATE, 1.0, plan) is None
    assert odds(HOLDOUT, 0.1, plan) is None and odds(TESTER, 1.0, plan) is None
    assert odds(SHADOW, 0.5, plan) == pytest.approx(1 / 3)


def test_shadow_and_testers_only_while_the_candidate_may_answer():
    shadow = {"shadow": {"sample": 0.5, "min_pairs": 5}}
    mirrored = course(0.0, Phase.SHADOW, **shadow)
    (key,) = shadow_keys(mirrored).values()
    assert key and (key.arm, key.share, key.version, key.step) == (SHADOW, 0.5, C, 0)
    assert pin_key(mirrored) is not None
    assert shadow_keys(course(0.2, **shadow)) == {}
    off = course(0.0, Phase.SHADOW, hold=Hold(HoldKind.STABLE_ARM, "x", 0.0), **shadow)
    assert shadow_keys(off) == {} and pin_key(off) is None
    assert pin_key(course(0.0, Phase.PREPARING)) is None


def test_a_snapshot_without_the_candidate_needs_nothing_from_an_engine():
    parts = intervals(course(0.2), ())
    arms = tuple(Arm(n, p.key.arm, p.key.version, p.key.version, p.low, p.high, ("e0", "e1")) for n, p in enumerate(parts))
    other = RouteState("other", "other", (Arm(9, STABLE, S, S, 0.0, 1.0, ("e0",)),))
    base = PinnedVersion(5, "base@000000000000", "base", ("e0", "e1"))
    before = Snapshot(3, 1.0, base, (other, RouteState("r", "r", arms, 7)), (), (Endpoint("e0", "u"), Endpoint("e1", "v")))
    after = without_candidate(before, "r", S, S, 42)
    assert after.routes[0] == other
    assert after.routes[1] == RouteState("r", "r", (Arm(42, STABLE, S, S, 0.0, 1.0, ("e0", "e1")),))
    assert from_json(3, 1.0, to_json(after)) == after
    to_base = without_candidate(before, "r", base.version, "base", 43)
    assert to_base.routes[1].arms[0].replicas == ("e0", "e1") and to_base.routes[1].arms[0].model == "base"


# Several candidates (A/B/n)

THREE = (C, "r@333333333333", "r@444444444444")


def abn(weight=0.3, dropped=(), **plan) -> Course:
    one = course(weight, **plan)
    memory = Memory(dropped={version: {"reason": "it failed"} for version in dropped})
    return replace(one, rollout=replace(one.rollout, candidate=THREE[0], rivals=THREE[1:]), memory=memory)


def who(parts, point: float) -> tuple[str, str]:
    key = next(part.key for part in parts if point < part.high)
    return key.arm, key.version


SPLITS = st.sampled_from([(), (2.0, 1.0, 1.0), (1.0, 5.0, 0.5)])


@given(st.floats(1e-6, 0.88), st.sampled_from(["0%", "10%"]), SPLITS, st.sets(st.sampled_from(THREE)))
def test_several_candidates_partition_too(weight, holdout, split, gone):
    for one, absent in ((abn(weight, gone, holdout=holdout, split=split), ()), (abn(weight, (), holdout=holdout), gone)):
        check_partition(state(intervals(one, absent)))


@given(st.binary(min_size=8, max_size=8), st.lists(st.floats(0.001, 0.88), min_size=2, max_size=5), SPLITS)
def test_a_ramp_moves_nobody_from_one_candidate_to_another(unit, weights, split):
    point, seen = bucket(b"r", unit), {}
    for weight in sorted(weights):
        arm, version = who(intervals(abn(weight, holdout="10%", split=split), ()), point)
        if arm == CANDIDATE:
            seen[version] = weight
        else:
            assert not seen
    assert len(seen) <= 1


@given(st.floats(0.01, 0.88), st.binary(min_size=8, max_size=8), SPLITS)
def test_when_one_is_dropped_its_units_go_to_stable_and_nobody_else_moves(weight, unit, split):
    point = bucket(b"r", unit)
    before = who(intervals(abn(weight, holdout="10%", split=split), ()), point)
    after = who(intervals(abn(weight, THREE[1:2], holdout="10%", split=split), ()), point)
    assert after == ((HOLDOUT, S) if before == (CANDIDATE, THREE[1]) else before)


def test_the_split_among_several_is_as_configured():
    parts = intervals(abn(0.4, holdout="10%", split=(2.0, 1.0, 1.0)), ())
    counts = dict.fromkeys([*((CANDIDATE, version) for version in THREE), (STABLE, S), (HOLDOUT, S)], 0)
    for number in range(40_000):
        counts[who(parts, bucket(b"r", number.to_bytes(8, "big")))] += 1
    assert chi_square_p(list(counts.values()), [0.2, 0.1, 0.1, 0.5, 0.1]) > 0.001


@given(st.floats(0.001, 0.88), SPLITS, st.booleans())
def test_every_arm_says_the_same_odds(weight, split, one_is_gone):
    one = abn(weight, THREE[2:] if one_is_gone else (), holdout="10%", split=split)
    keys = {(part.key.arm, part.key.version): part.key for part in intervals(one, ())}
    stable = odds(STABLE, keys[STABLE, S].share, one.plan)
    for version in one.candidates:
        key = keys[CANDIDATE, version]
        assert odds(CANDIDATE, key.share, one.plan, one.part(version)) == pytest.approx(stable, abs=1e-9)
        mine = odds_of_one(stable, one.part(version))
        assert mine == pytest.approx(key.share / (key.share + keys[STABLE, S].share), rel=1e-6)


def test_the_shadow_is_divided_among_several():
    shadow = {"shadow": {"sample": 0.6, "min_pairs": 5}, "split": (2.0, 1.0, 1.0)}
    one = abn(0.0, **shadow)
    one = replace(one, rollout=replace(one.rollout, phase=Phase.SHADOW, step=0))
    assert {v: k.share for v, k in shadow_keys(one).items()} == pytest.approx(dict(zip(THREE, (0.3, 0.15, 0.15), strict=True)))
    assert odds(SHADOW, 0.15, one.plan, 0.25) == pytest.approx(odds(SHADOW, 0.6, one.plan))
    assert odds_of_one(odds(SHADOW, 0.6, one.plan), 0.25) == pytest.approx(0.15 / 1.15)


def test_a_snapshot_without_one_of_several():
    parts = intervals(abn(0.3), ())
    arms = tuple(Arm(n, p.key.arm, p.key.version, p.key.version, p.low, p.high, ("e0",)) for n, p in enumerate(parts))
    mirrors = tuple(Shadow(20 + n, version, version, ("e0",), 0.1, 1, 9) for n, version in enumerate(THREE))
    base = PinnedVersion(5, "base@000000000000", "base", ("e0",))
    route = RouteState("r", "r", arms, 7, mirrors[0], (), 5, mirrors[1:])
    before = Snapshot(3, 1.0, base, (route,), (), (Endpoint("e0", "u"),))
    after = without_one(before, "r", S, S, 42, dropped=THREE[0]).routes[0]
    assert [(a.assignment, a.arm) if a.version == S else a for a in after.arms[:1]] == [(42, HOLDOUT)]
    assert after.arms[1:] == route.arms[1:] and after.mirrored == mirrors[1:] and after.rollout == 7
    check_partition(after)
    assert from_json(3, 1.0, to_json(replace(before, routes=(after,)))).routes == (after,)
