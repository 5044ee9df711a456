"""Numbers that cannot be, found before anything is concluded from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from monitors.analysis.checks import events_problem, measurement_problem, pairs_problem, sums_problem
from monitors.analysis.spec import MetricSpec
from monitors.analysis.types import ArmSums, BadEvent, Measurements

REWARD, TOKENS = MetricSpec(name="reward"), MetricSpec(name="tokens")
GOOD = ArmSums.of([0.0, 1.0, 2.0], [1.0, 2.0, 2.0])


def test_sums_of_real_units_are_possible():
    assert sums_problem(REWARD, GOOD) == ""
    assert sums_problem(REWARD, ArmSums.of([], [])) == ""
    assert sums_problem(REWARD, ArmSums.of([0.1] * 30, [1.0] * 30)) == ""  # rounding of 30 · .01 against .3²
    assert sums_problem(TOKENS, ArmSums.of([500.0, 900.0], [1.0, 1.0])) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"m": math.nan}, "not a finite number"),
        ({"dd": 1e200}, "not a finite number"),
        ({"xm": 1.0}, "covariate"),
        ({"units": 0}, "0 units cannot have 5 answers"),
        ({"d": -1.0}, "cannot have -1 answers"),
        ({"dd": 8.0}, "sum of squares"),
        ({"m": 6.0, "mm": 40.0}, "values in 0..1; a grader that leaves 0..1 needs bounded = false in the plan"),
    ],
)
def test_impossible_sums(change: dict, words: str):
    assert words in sums_problem(REWARD, replace(GOOD, **change))


def test_shares_pairs_and_counts():
    assert events_problem([BadEvent(True, 0.5)]) == "" != events_problem([BadEvent(True, 1.0)])
    assert pairs_problem(REWARD, [0.5, -1.0]) == "" != pairs_problem(REWARD, [1.1])
    assert pairs_problem(TOKENS, [-400.0]) == "" != pairs_problem(TOKENS, [math.inf])
    assert measurement_problem(Measurements(1.0, 5, 5, (5, 5), (0.1, 0.9))) == ""
    assert "2 counts of units for 1 arms" in measurement_problem(Measurements(1.0, ratio_counts=(1, 2), ratio_weights=(1,)))
    assert "weights" in measurement_problem(Measurements(1.0, ratio_counts=(1, 2), ratio_weights=(1e-12, 1.0)))
