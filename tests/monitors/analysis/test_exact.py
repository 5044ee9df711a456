"""Exact comparisons against bounds worked out one arm at a time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.analysis.comparison import compare
from monitors.analysis.exact import compare_exactly, trusted
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import ArmSums, Verdict
from monitors.stats.bounded import bounded_interval
from monitors.stats.results import InsufficientData

ERROR, SATISFACTION = MetricSpec(name="error"), MetricSpec(name="satisfaction")
REWARD = MetricSpec(name="reward", margin=0.05, margin_unit="absolute")
SPEC = JudgeSpec(metrics=(ERROR,))


def binary(n: int, ones: int) -> ArmSums:
    return ArmSums(n, ones, ones, n, n, ones)


def test_the_interval_is_that_of_both_arms_at_half_of_alpha():
    found = compare_exactly(ERROR, binary(800, 3), binary(900, 2), SPEC)
    worse, base = bounded_interval(3, 800, 0.025), bounded_interval(2, 900, 0.025)
    assert (found.lower, found.upper) == pytest.approx((worse.lower - base.upper, worse.upper - base.lower))
    assert found.effect == pytest.approx(3 / 800 - 2 / 900)


def test_of_a_mean_nobody_knows_beforehand_which_outcome_is_rare():
    """Each is bounded, at half of half of alpha, and both bounds hold."""
    found = compare_exactly(SATISFACTION, binary(800, 797), binary(900, 898), SPEC)
    worse, base = bounded_interval(3, 800, 0.0125), bounded_interval(2, 900, 0.0125)
    assert (found.lower, found.upper) == pytest.approx((base.lower - worse.upper, base.upper - worse.lower), abs=1e-6)
    turned = compare_exactly(SATISFACTION, binary(800, 3), binary(900, 2), SPEC)
    assert (turned.lower, turned.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-6)


def test_a_unit_hit_many_times_is_one_unit_below_and_as_many_above():
    """Four units with five errors each: four to twenty units hit, of whom each had one bad answer in five at least."""
    bursts = ArmSums.of([5.0] * 4 + [0.0] * 796, [5.0] * 800)
    found = compare_exactly(ERROR, bursts, binary(800, 0), SPEC)
    low, high = bounded_interval(4, 800, 0.025).lower / 5, bounded_interval(20, 800, 0.025).upper
    none = bounded_interval(0, 800, 0.025)
    assert (found.lower, found.upper) == pytest.approx((low - none.upper, high - none.lower))


@pytest.mark.parametrize(
    ("metric", "tolerated"),
    [
        (ERROR, 0.01),
        (MetricSpec(name="guard"), 0.01),                                # its floor: 1.25 times nothing is nothing
        (MetricSpec(name="guard", floor=0.0), 0.0),
        (MetricSpec(name="reward", floor=0.0, direction="decrease"), 0.0),  # no spread, no tolerance
    ],
)
def test_tolerances(metric: MetricSpec, tolerated: float):
    found = compare_exactly(metric, binary(5000, 0), binary(5000, 0), SPEC)
    assert found.tolerated == pytest.approx(tolerated)
    assert found.verdict is (Verdict.PASS if tolerated else Verdict.INCONCLUSIVE)


def test_no_data_is_no_interval():
    with pytest.raises(InsufficientData):
        compare_exactly(ERROR, binary(100, 0), ArmSums.of([], []), SPEC)


def answered(per_unit: int, bad: list[int]) -> ArmSums:
    """Units with so many answers each, of which so many were bad."""
    return ArmSums.of([float(per_unit - b) for b in bad], [float(per_unit)] * len(bad))


def test_a_stable_version_that_is_never_right_holds_no_better_one_back():
    """400 users with four answers each: no reward at all against .7 of it."""
    better = answered(4, [(1, 1, 1, 2, 1)[i % 5] for i in range(400)])
    found = compare(REWARD, better, answered(4, [4] * 400), SPEC)
    assert (found.test, found.verdict) == ("exact", Verdict.PASS)
    assert found.effect == pytest.approx(0.7) and 0.5 < found.lower < 0.7 < found.upper
    back = compare(REWARD, answered(4, [4] * 400), better, SPEC)
    assert back.verdict is Verdict.FAIL


def test_a_user_with_many_answers_is_not_a_bad_answer_for_each():
    """Ten answers each, one in fifty bad: a fifth of the users saw one, and 2 % are within a margin of 5 %."""
    found = compare(REWARD, answered(10, [i % 5 == 0 for i in range(600)]), answered(10, [0] * 600), SPEC)
    assert found.test == "exact" and found.verdict is not Verdict.FAIL
    assert found.effect == pytest.approx(-0.02) and found.lower < -0.02 < found.upper


def test_few_users_are_few_however_often_they_complain():
    """Two of 400 with ten errors each are no twenty independent ones."""
    assert not trusted(ArmSums.of([10.0] * 2 + [0.0] * 398, [10.0] * 400))
    assert trusted(ArmSums.of([1.0] * 20 + [0.0] * 380, [10.0] * 400))


def test_values_that_never_vary_are_bounded_all_the_same():
    """A grader that says .5 of everything: no variance, and yet two thousand of them are no worse than as many."""
    half = ArmSums.of([0.5] * 2000, [1.0] * 2000)
    found = compare(MetricSpec(name="reward", margin=0.2, margin_unit="absolute"), half, half, SPEC)
    assert (found.test, found.verdict) == ("exact", Verdict.PASS) and found.lower < 0 < found.upper


@given(
    units=st.tuples(st.integers(1, 500), st.integers(1, 500)), per_unit=st.integers(1, 8), seed=st.integers(0, 10**6),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1)), metric=st.sampled_from(["error", "reward", "satisfaction"]),
)  # fmt: skip
@settings(max_examples=150)
def test_what_is_shown_lies_in_its_interval(units, per_unit, seed, rates, metric):
    draw = random.Random(seed)
    arms = [
        answered(per_unit, [sum(draw.random() < rate for _ in range(per_unit)) for _ in range(n)])
        for n, rate in zip(units, rates, strict=True)
    ]
    found = compare_exactly(MetricSpec(name=metric, margin=0.1), *arms, SPEC)
    assert -1 <= found.lower <= found.effect <= found.upper <= 1
