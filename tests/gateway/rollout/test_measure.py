"""What of the records belongs to a step, and what the judge makes of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.rollouts import Phase
from gateway.rollout.measure import means, measure, rules, segment_of
from gateway.rollout.plan import default_plan
from monitors.analysis import Verdict, judge
from tests.support.records import CANDIDATE, STABLE, Records
from tests.support.traffic import quick_plan

MEASURED = [
    {"name": "satisfaction", "role": "primary"}, {"name": "error"}, {"name": "reward", "role": "exploratory"},
    {"name": "tokens", "role": "exploratory"},
]  # fmt: skip


@pytest.fixture
def records(database) -> Records:
    return Records(database, quick_plan(metric=MEASURED, holdout="10%"))


def measured(records: Records, **memory):
    course = records.course(credited=12.0, **memory)
    arms = EvidenceStore(records.database).arms(records.rollout.id)
    return measure(EvidenceSums(records.database), course, arms, {})


def test_only_this_step_at_this_weight_counts(records: Records):
    old = records.assignment("candidate", 0.1), records.assignment("stable", 0.8, version=STABLE)
    later = records.assignment("candidate", 0.2, step=2)
    records.assignment("holdout", 0.1, version=STABLE)
    shadow = records.assignment("shadow", 0.5, step=0)
    arms = EvidenceStore(records.database).arms(records.rollout.id)
    segment = segment_of(records.course(), arms)
    assert (segment.candidate, segment.stable) == ((records.candidate,), (records.stable,))
    assert set(segment.earlier) == {*old, later} and shadow not in segment.earlier


def test_a_step_is_measured(records: Records):
    for unit in range(6):
        records.answer(records.candidate if unit < 2 else records.stable, unit, output_tokens=unit)
    records.error(records.candidate, 1)
    records.say(records.candidate, 1, 0.5)
    records.grade(records.stable, 3, "exact", 1.0)
    found = measured(records)
    assert (found.elapsed, found.candidate_units, found.stable_units) == (12.0, 2, 4)
    assert found.ratio_counts == (2, 4) and found.ratio_weights == pytest.approx((0.2 / 0.9, 0.7 / 0.9))
    candidate, stable = found.metrics["error"]
    assert (candidate.units, candidate.m, candidate.d, stable.m, stable.d) == (2, 1.0, 3.0, 0.0, 4.0)
    assert found.metrics["satisfaction"][0].m == 0.5 and found.metrics["satisfaction"][0].has_covariate
    assert found.metrics["reward"][1].m == 1.0
    assert found.metrics["tokens"][1].m == 2 + 3 + 4 + 5
    assert means(found) == {"error": 0.0, "reward": 1.0, "tokens": 3.5}


def test_with_all_traffic_on_one_arm_there_is_no_split_to_test(records: Records):
    row = replace(records.rollout, weight=0.0)
    course = replace(records.course(), rollout=row)
    found = measure(EvidenceSums(records.database), course, {}, {})
    assert found.ratio_counts == () and found.candidate_units == 0


def test_pairs_of_the_shadow(database):
    metric = [{"name": "reward", "role": "primary"}, {"name": "reward.judge", "role": "exploratory"}, {"name": "error"}]
    plan = quick_plan(metric=metric, shadow={"sample": 0.5, "min_pairs": 2})
    records = Records(database, plan, weight=0.0, phase=Phase.SHADOW.value, step=0)
    for unit, name, stable, candidate in (
        (1, "exact", 0.0, 1.0), (1, "exact", 0.0, 0.0), (2, "exact", 1.0, 0.5), (1, "judge", 0.5, 0.25),
        (1, "text.words", 9.0, 1.0),
    ):  # fmt: skip
        records.pair(unit, name, stable, candidate)
    found = measure(EvidenceSums(database), records.course(), {}, {})
    assert found.pairs == {"reward": [1.0, -0.5, -0.25], "reward.judge": [-0.25], "text.words": [-8.0]}


def test_each_phase_has_its_rules(records: Records):
    course = records.course()
    assert rules(course).min_units == 20
    assert rules(replace(course, rollout=replace(course.rollout, phase=Phase.PREPARING))) is None
    shadowed = quick_plan(shadow={"sample": 0.5, "min_pairs": 7})
    mirrored = replace(course, plan=shadowed, rollout=replace(course.rollout, phase=Phase.SHADOW))
    assert rules(mirrored).shadow and rules(mirrored).min_pairs == 7


def without_covariates(found):
    plain = {n: tuple(replace(s, x=None, xx=None, xm=None, xd=None) for s in both) for n, both in found.metrics.items()}
    return replace(found, metrics=plain)


@pytest.mark.parametrize("gone", [0.0, 0.5], ids=["all-return", "half-are-new"])
def test_the_shipped_plan_uses_what_users_said_before(database, gone):
    """Satisfaction, its primary metric: users who always rate high, or always low, tell less about the versions."""
    plan = default_plan(("responses", "feedback"))
    records, draw = Records(database, plan, weight=0.5, step=4), random.Random(8)
    arms_of = [records.assignment(a, 0.5, step=4, version=v) for a, v in (("candidate", CANDIDATE), ("stable", STABLE))]
    outside = records.assignment("stable", 1.0, rollout=0, step=0, version=STABLE)
    for unit in range(360):
        taste = draw.random()
        if draw.random() >= gone:
            records.say(outside, unit, taste, at=500.0)
        records.say(arms_of[unit % 2], unit, min(1.0, max(0.0, taste + draw.gauss(0.0, 0.05))))
    arms = EvidenceStore(database).arms(records.rollout.id)
    found = measure(EvidenceSums(database), records.course(credited=1e5), arms, {})

    def interval(measured) -> tuple[float, float]:
        findings = judge(plan.judge_spec(3), measured).findings
        satisfaction = next(f for f in findings if f.metric == "satisfaction")
        assert satisfaction.test == "sequential"
        return satisfaction.lower, satisfaction.upper

    (low, high), (plain_low, plain_high) = interval(found), interval(without_covariates(found))
    print(f"width {high - low:.4f} instead of {plain_high - plain_low:.4f}")  # shown by pytest -rP
    assert high - low < (0.8 if gone else 0.4) * (plain_high - plain_low)
    assert low < 0.0 < high


def test_the_covariate_of_returning_users_makes_the_interval_narrower(records: Records):
    """Users who differ much from each other and little from themselves: CUPED takes most of that away."""
    draw = random.Random(7)
    outside = records.assignment("stable", 1.0, rollout=0, step=0, version=STABLE)
    for unit in range(440):
        taste = draw.random()
        records.grade(outside, unit, "exact", taste, at=500.0)
        arm = records.candidate if unit % 2 else records.stable
        records.answer(arm, unit)
        records.grade(arm, unit, "exact", min(1.0, max(0.0, taste + draw.gauss(0.0, 0.05))))
    plan = quick_plan(metric=[{"name": "reward", "role": "primary"}, {"name": "error"}], holdout="10%")
    course = replace(records.course(credited=60.0), plan=plan)
    arms = EvidenceStore(records.database).arms(records.rollout.id)
    with_x = measure(EvidenceSums(records.database), course, arms, {})

    def width(found) -> float:
        finding = next(f for f in judge(plan.judge_spec(0), found).findings if f.metric == "reward")
        assert finding.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
        return finding.upper - finding.lower

    assert width(with_x) < 0.5 * width(without_covariates(with_x))
