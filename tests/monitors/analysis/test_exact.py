"""Exact comparisons against bounds worked out one arm at a time."""

from __future__ import annotations

import pytest

from monitors.analysis.exact import compare_exactly
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import ArmSums, Verdict
from monitors.stats.bounded import bounded_interval
from monitors.stats.results import InsufficientData

ERROR, SATISFACTION = MetricSpec(name="error"), MetricSpec(name="satisfaction")
SPEC = JudgeSpec(metrics=(ERROR,))


def binary(n: int, ones: int) -> ArmSums:
    return ArmSums(n, ones, ones, n, n, ones)


def test_the_interval_is_that_of_both_arms_at_half_of_alpha():
    found = compare_exactly(ERROR, binary(800, 3), binary(900, 2), SPEC)
    worse, base = bounded_interval(3, 800, 0.025), bounded_interval(2, 900, 0.025)
    assert (found.lower, found.upper) == pytest.approx((worse.lower - base.upper, worse.upper - base.lower))
    assert found.effect == pytest.approx(3 / 800 - 2 / 900)
    turned = compare_exactly(SATISFACTION, binary(800, 797), binary(900, 898), SPEC)
    assert (turned.lower, turned.upper) == pytest.approx((-found.upper, -found.lower))


def test_a_unit_hit_many_times_is_one_unit_below_and_as_many_above():
    """Four units with five errors each: four to twenty units hit."""
    bursts = ArmSums.of([5.0] * 4 + [0.0] * 796, [5.0] * 800)
    found = compare_exactly(ERROR, bursts, binary(800, 0), SPEC)
    low, high = bounded_interval(4, 800, 0.025).lower, bounded_interval(20, 800, 0.025).upper
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
