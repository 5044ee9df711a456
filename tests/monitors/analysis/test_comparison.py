"""One metric, candidate against stable: margins, directions, horizons, and what cannot be concluded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from monitors.analysis import ArmSums, Finding, JudgeSpec, Measurements, MetricSpec, Verdict
from monitors.analysis.comparison import compare, explore, superiority_p
from monitors.stats import fixed, sequential
from monitors.stats.results import InsufficientData

SATISFACTION = MetricSpec(name="satisfaction", role="primary")
REWARD = MetricSpec(name="reward")
ERROR = MetricSpec(name="error")
SLOW = MetricSpec(name="slow_ttft")
TOKENS = MetricSpec(name="tokens")
SPEC = JudgeSpec(metrics=(SATISFACTION, REWARD, ERROR, SLOW))


def binary(n: int, good: int) -> ArmSums:
    """n units with one answer each, of which `good` are 1."""
    return ArmSums(n, good, good, n, n, good)


def normal(n: int, mean: float, sd: float, seed: int) -> ArmSums:
    x = np.random.default_rng(seed).normal(mean, sd, n)
    return ArmSums.of(x, np.ones(n))


def test_an_equal_version_passes_once_there_is_enough():
    assert compare(SATISFACTION, binary(1000, 800), binary(1000, 800), SPEC).verdict is Verdict.INCONCLUSIVE
    found = compare(SATISFACTION, binary(10_000, 8000), binary(10_000, 8000), SPEC)
    assert found.verdict is Verdict.PASS and found.test == "sequential"
    assert found.tolerated == -0.02 and found.lower is not None and found.lower > -0.02
    error = math.sqrt(2 * 0.8 * 0.2 / 9999)
    expected = sequential.asymptotic_interval(0.0, error, 20_000, 0.05, one_sided=True)
    assert (found.lower, found.upper) == pytest.approx(expected, rel=1e-3)
    assert found.p is not None and found.p < 0.05


def test_a_worse_version_fails_and_the_margin_is_no_reason():
    assert compare(SATISFACTION, binary(5000, 3500), binary(5000, 4000), SPEC).verdict is Verdict.FAIL
    tolerated = compare(SATISFACTION, binary(100_000, 79_000), binary(100_000, 80_000), SPEC)
    assert tolerated.verdict is Verdict.PASS  # one point worse, surely, and two are tolerated
    assert tolerated.upper is not None and tolerated.upper < 0


def test_directions():
    more = compare(TOKENS, normal(3000, 150, 30, 1), normal(3000, 100, 30, 2), replace(SPEC, metrics=(TOKENS,)))
    assert more.verdict is Verdict.FAIL and more.effect is not None and more.effect > 40
    less = compare(TOKENS, normal(3000, 50, 30, 1), normal(3000, 100, 30, 2), replace(SPEC, metrics=(TOKENS,)))
    assert less.verdict is Verdict.PASS
    assert less.better == pytest.approx(1) and more.better == pytest.approx(0)
    assert more.expected_loss == pytest.approx(50, rel=0.05) and less.expected_loss == pytest.approx(0)
    assert less.tolerated == pytest.approx(10, rel=0.05)  # 1.1 times stable's mean


def test_events_are_never_condemned_here():
    found = compare(ERROR, binary(5000, 1000), binary(5000, 50), SPEC)
    assert found.verdict is Verdict.INCONCLUSIVE and found.log_e is None  # that is the attribution test's business


def test_few_bad_outcomes_are_counted_exactly():
    none = compare(ERROR, binary(1000, 0), binary(1000, 0), SPEC)
    assert (none.verdict, none.test) == (Verdict.PASS, "exact")
    assert none.upper is not None and 0 < none.upper < 0.01
    few = compare(ERROR, binary(100, 0), binary(100, 0), SPEC)
    assert (few.verdict, few.test) == (Verdict.INCONCLUSIVE, "exact")
    some = compare(ERROR, binary(1000, 8), binary(1000, 0), SPEC)
    assert some.verdict is Verdict.INCONCLUSIVE
    perfect = compare(SATISFACTION, binary(1000, 1000), binary(1000, 1000), SPEC)
    assert (perfect.verdict, perfect.test) == (Verdict.PASS, "exact")
    ruined = compare(SATISFACTION, binary(60, 5), binary(60, 58), SPEC)
    assert (ruined.verdict, ruined.test) == (Verdict.FAIL, "exact")
    assert ruined.effect is not None and ruined.effect < 0 and ruined.upper is not None and ruined.upper < 0


def test_one_unit_with_many_errors_does_not_condemn_or_hide():
    bursts = ArmSums.of([40.0] + [0.0] * 999, [40.0] + [1.0] * 999)
    clean = binary(1000, 0)
    assert compare(ERROR, bursts, clean, SPEC).verdict is Verdict.INCONCLUSIVE
    assert compare(ERROR, clean, bursts, SPEC).verdict is Verdict.PASS


def test_a_ratio_margin_with_its_floor():
    rare = compare(SLOW, binary(4000, 30), binary(4000, 20), SPEC)  # ratio 1.5, but a quarter of a point
    assert rare.verdict is Verdict.PASS and rare.tolerated == 0.01
    often = compare(SLOW, binary(40_000, 8400), binary(40_000, 8000), SPEC)  # one point above the floor, ratio 1.05
    assert often.verdict is Verdict.PASS and often.tolerated == pytest.approx(0.05)
    strict = SLOW.model_copy(update={"floor": 0.0})
    assert compare(strict, binary(4000, 30), binary(4000, 20), SPEC).verdict is Verdict.INCONCLUSIVE


def test_a_margin_in_standard_deviations():
    found = compare(REWARD, normal(12_000, 0.5, 0.1, 3), normal(12_000, 0.5, 0.1, 4), SPEC)
    assert found.verdict is Verdict.PASS and found.tolerated == pytest.approx(-0.005, rel=0.05)
    worse = compare(REWARD, normal(3000, 0.45, 0.1, 3), normal(3000, 0.5, 0.1, 4), SPEC)
    assert worse.verdict is Verdict.FAIL


def test_a_fixed_horizon_decides_once():
    spec = replace(SPEC, horizon=4000)
    early = compare(SATISFACTION, binary(3999, 3200), binary(5000, 4000), spec)
    assert early.verdict is Verdict.INCONCLUSIVE and early.p is None and "3999 of the 4000" in early.reason
    found = compare(SATISFACTION, binary(5000, 4020), binary(5000, 4000), spec)
    assert (found.verdict, found.test) == (Verdict.PASS, "fixed")
    assert found.p == pytest.approx(fixed.noninferiority_score(4020, 5000, 4000, 5000, -0.02).p)
    ratio = compare(SATISFACTION, ArmSums.of([2.0, 1.0] * 2500, [2.0, 2.0] * 2500), binary(5000, 3700), spec)
    assert ratio.test == "fixed" and ratio.verdict is Verdict.PASS  # not one answer a unit: the delta method
    down = compare(ERROR, binary(5000, 50), binary(5000, 50), spec)
    assert down.p == pytest.approx(fixed.noninferiority_score(4950, 5000, 4950, 5000, -0.01).p)
    assert compare(SATISFACTION, binary(3000, 2000), binary(3000, 2400), spec).verdict is Verdict.FAIL  # before it


def test_superiority():
    assert superiority_p(SATISFACTION, binary(5000, 4250), binary(5000, 4000), SPEC) < 0.001
    assert superiority_p(SATISFACTION, binary(5000, 4000), binary(5000, 4250), SPEC) == 1.0
    assert superiority_p(SATISFACTION, binary(5000, 4250), binary(5000, 4000), replace(SPEC, horizon=4000)) < 1e-9
    with pytest.raises(InsufficientData):
        superiority_p(SATISFACTION, binary(50, 42), binary(50, 40), replace(SPEC, horizon=4000))


@pytest.mark.parametrize(
    ("metric", "arm", "words"),
    [
        (TOKENS, normal(99, 1, 1, 0), "99 units on an arm, 100 needed"),
        (TOKENS, ArmSums.of([], []), "0 units"),
        (ERROR, ArmSums.of([], []), "no data"),
        (TOKENS, ArmSums.of([5.0] * 500, [1.0] * 500), "vary"),
    ],
)
def test_too_little_is_inconclusive(metric: MetricSpec, arm: ArmSums, words: str):
    found = compare(metric, arm, arm, SPEC)
    assert found.verdict is Verdict.INCONCLUSIVE and words in found.reason and found.p is None


BROKEN = [
    replace(binary(100, 50), m=math.nan),
    replace(binary(100, 50), dd=math.inf),
    replace(binary(100, 50), units=-1),
    replace(binary(100, 50), d=0.0),
    replace(binary(100, 50), mm=1.0),
    replace(binary(100, 50), m=101.0, mm=200.0),
    replace(binary(100, 50), m=-1.0),
    replace(binary(100, 50), x=1.0),
    replace(binary(100, 50), units=0),
]


@pytest.mark.parametrize("arm", BROKEN)
def test_impossible_sums_are_an_error(arm: ArmSums):
    good = binary(100, 50)
    assert compare(SATISFACTION, arm, good, SPEC).verdict is Verdict.ERROR
    found = compare(SATISFACTION, good, arm, SPEC)
    assert found.verdict is Verdict.ERROR and "(stable)" in found.reason


def shown(found: list[Finding]) -> list[bool]:
    return ["differs from stable" in finding.reason for finding in found]


def test_exploratory_metrics_are_shown_with_a_false_discovery_rate():
    names = ("text.length", "tokens", "cost", "duration")
    metrics = [MetricSpec(name=name, role="exploratory") for name in names]
    metrics_of = {
        "text.length": (normal(2000, 12, 3, 1), normal(2000, 10, 3, 2)),
        "tokens": (normal(2000, 10, 3, 3), normal(2000, 10, 3, 4)),
        "cost": (normal(20, 10, 3, 3), normal(20, 10, 3, 4)),
    }
    found = explore(metrics, Measurements(10, metrics=metrics_of), SPEC)
    assert shown(found) == [True, False, False, False]
    assert [f.metric for f in found] == list(names) and found[3].reason == "duration: no data"
    assert all(f.log_e is None for f in found)
