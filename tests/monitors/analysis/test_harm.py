"""Harm tests: attribution of bad events, pairs of the shadow phase, the split of the traffic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from monitors.analysis import (
    ArmSums,
    BadEvent,
    Decision,
    HarmTests,
    JudgeSpec,
    Measurements,
    MetricSpec,
    Verdict,
    harm_findings,
    judge,
)
from monitors.analysis.harm import harm_level, phase_level
from monitors.stats.attribution import AttributionTest

ERROR, EMPTY = MetricSpec(name="error"), MetricSpec(name="empty")
REWARD = MetricSpec(name="reward", role="primary")
SHOWN = MetricSpec(name="guard", role="exploratory")
SPEC = JudgeSpec(metrics=(ERROR, EMPTY, REWARD, SHOWN))
SHADOW = JudgeSpec(metrics=(ERROR, REWARD, MetricSpec(name="text.length")), shadow=True, min_pairs=50)
MINE, THEIRS = BadEvent(True, 0.05), BadEvent(False, 0.05)


def test_alpha_is_shared_by_what_can_roll_back():
    assert harm_level(SPEC) == pytest.approx(0.001 / 3)  # the exploratory metric cannot
    found = harm_findings(SPEC, {"guard": [MINE] * 50})
    assert [f.metric for f in found] == ["error", "empty"]
    assert all(f.threshold == pytest.approx(math.log(3000)) for f in found)


def test_tests_that_begin_anew_share_it_over_the_phases():
    spec = replace(SPEC, phases=5)
    assert phase_level(spec) == pytest.approx(harm_level(spec) / 5) and harm_level(spec) == harm_level(SPEC)
    found = judge(replace(SHADOW, phases=5), pairs([0.1] * 60))
    assert next(f for f in found.findings if f.test == "paired").threshold == pytest.approx(math.log(3 * 5 / 0.001))
    arms = {"reward": (ArmSums(500, 250, 200, 500, 500, 250),) * 2}
    found = judge(spec, Measurements(1.0, 500, 500, metrics=arms))
    assert next(f for f in found.findings if f.metric == "reward").threshold == pytest.approx(math.log(3 * 5 / 0.001))


def test_a_handful_of_events_is_enough_and_the_finding_says_which():
    found = {f.metric: f for f in harm_findings(SPEC, {"error": [MINE] * 8})}["error"]
    assert found.verdict is Verdict.FAIL
    assert found.n < 8  # it stopped at the event that decided
    assert "of the traffic was 0.05" in found.reason and f"{found.n:.0f} of {found.n:.0f} bad events" in found.reason
    test = AttributionTest(0.001 / 3)
    for _ in range(int(found.n)):
        test.observe(True, 0.05)
    assert found.log_e == pytest.approx(test.log_e)


def test_an_alarm_stands_whatever_comes_later():
    events = [MINE] * 8 + [THEIRS] * 2000
    assert harm_findings(SPEC, {"error": events})[0].verdict is Verdict.FAIL
    assert harm_findings(SPEC, {"error": [THEIRS] * 2000})[0].verdict is Verdict.INCONCLUSIVE


def test_tests_that_remember_find_the_same_as_those_that_start_anew():
    kept, seen = HarmTests(SPEC), []
    for number in range(200):
        seen.append(BadEvent(number % 9 == 0, (0.01, 0.05, 0.25)[number // 70]))
        found = kept.update({"error": seen, "empty": seen[::2]})
        if number % 20 == 0 or found[0].verdict is Verdict.FAIL:
            assert found == harm_findings(SPEC, {"error": seen, "empty": seen[::2]})
    assert found[0].verdict is Verdict.FAIL and found[0].n < 200
    broken = HarmTests(SPEC)
    assert broken.update({"error": [BadEvent(True, 2.0)]})[0].verdict is Verdict.ERROR


def test_no_event_is_no_pass():
    assert {f.verdict for f in harm_findings(SPEC, {})} == {Verdict.INCONCLUSIVE}


@pytest.mark.parametrize("share", [0.0, 1.0, math.nan, -0.1])
def test_an_impossible_share_is_an_error(share: float):
    found = harm_findings(SPEC, {"error": [BadEvent(True, share)]})[0]
    assert found.verdict is Verdict.ERROR and "share" in found.reason


def test_harm_wins_over_a_mismatched_split_and_over_impossible_numbers():
    events = {"error": [MINE] * 8}
    voided = Measurements(10, 500, 500, (900, 100), (0.5, 0.5), bad_events=events)
    assert judge(SPEC, voided).decision is Decision.ROLLBACK
    broken = Measurements(math.nan, bad_events=events)
    assert judge(SPEC, broken).decision is Decision.ROLLBACK


def test_a_mismatched_split_voids_the_step():
    found = judge(SPEC, Measurements(10, 900, 100, (900, 100), (0.5, 0.5)))
    assert (found.verdict, found.decision, found.final) == (Verdict.INCONCLUSIVE, Decision.INCONCLUSIVE, True)
    assert "not split as configured: 900 / 100 units where 500 / 500 were expected" in found.reason
    assert judge(SPEC, Measurements(10, 510, 490, (510, 490), (0.5, 0.5))).decision is Decision.CONTINUE


def pairs(values: list[float], name: str = "reward", elapsed: float = 60.0) -> Measurements:
    return Measurements(elapsed, pairs={name: values})


def test_pairs_show_harm_or_none():
    worse = judge(SHADOW, pairs([-0.4, -0.2, 0.0, -0.5] * 40))
    assert worse.decision is Decision.ROLLBACK and worse.metric == "reward"
    assert "worse than tolerated in 160 pairs" in worse.reason
    better = judge(SHADOW, pairs([0.4, 0.2, 0.0, 0.5] * 40))
    assert better.decision is Decision.PROMOTE
    finding = next(f for f in better.findings if f.test == "paired")
    assert finding.verdict is Verdict.PASS and finding.lower is not None and finding.lower > 0
    few = judge(SHADOW, pairs([0.1] * 20))
    assert few.decision is Decision.CONTINUE and "20 of 50 pairs" in few.reason
    assert judge(SHADOW, Measurements(60)).decision is Decision.CONTINUE


def test_pairs_of_unbounded_metrics_are_judged_by_their_sign():
    longer = judge(SHADOW, pairs([900.0, 12.0, 3.0] * 60, "text.length"))
    assert longer.decision is Decision.ROLLBACK and "share better minus share worse" in longer.reason
    assert judge(SHADOW, pairs([900.0, -1.0] * 90, "text.length")).decision is Decision.PROMOTE


def test_rates_of_pairs_have_their_own_margins():
    guard = MetricSpec(name="guard")
    spec = JudgeSpec(metrics=(guard,), shadow=True, min_pairs=10)
    worse = judge(spec, pairs([1.0, 1.0, 0.0, 1.0] * 10, "guard"))
    assert worse.decision is Decision.ROLLBACK
    equal = judge(spec, pairs([1.0, -1.0, 0.0, 0.0] * 50, "guard"))
    assert equal.decision is Decision.PROMOTE
    found = next(f for f in equal.findings if f.test == "paired")
    assert found.lower is not None and found.upper is not None and found.lower < 0 < found.upper


@pytest.mark.parametrize("values", [[math.nan], [0.1, math.inf], [1.5]])
def test_impossible_pairs_are_an_error(values: list[float]):
    found = judge(SHADOW, pairs(values * 100))
    assert found.verdict is Verdict.ERROR and found.decision is Decision.CONTINUE
    assert judge(SHADOW, pairs(values * 100, elapsed=math.inf)).verdict is Verdict.ERROR


def test_the_shadow_ends_in_time():
    spec = JudgeSpec(metrics=(REWARD,), shadow=True, min_pairs=50, max_duration=100.0)
    found = judge(spec, pairs([0.0] * 20, elapsed=100.0))
    assert found.decision is Decision.INCONCLUSIVE and "20 of 50 pairs" in found.reason


def test_pairs_that_no_metric_judges_are_not_judged():
    found = judge(SHADOW, pairs([-1.0] * 60, "unknown"))
    assert found.decision is Decision.PROMOTE and not [f for f in found.findings if f.test == "paired"]
    assert ArmSums.of([], []).units == 0
