"""Effects from sums against the per-unit functions, which are checked against published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monitors.analysis.effects import effect, posterior, ratio_of, spread
from monitors.analysis.types import ArmSums
from monitors.stats import adjust
from monitors.stats.results import InsufficientData


def two_arms(seed: int, n: int = 200) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    d = [rng.integers(1, 6, n).astype(float) for _ in range(2)]
    m = [rng.binomial(k.astype(int), 0.3).astype(float) for k in d]
    x = [a / b + rng.normal(0, 0.3, n) for a, b in zip(m, d, strict=True)]
    return m, d, x


def test_ratios_are_those_of_the_delta_method():
    m, d, _ = two_arms(1)
    found = effect(ArmSums.of(m[0], d[0]), ArmSums.of(m[1], d[1]))
    one, two = (adjust.ratio_estimate(a, b) for a, b in zip(m, d, strict=True))
    assert found.difference == pytest.approx(one.ratio - two.ratio)
    assert found.standard_error == pytest.approx(math.hypot(one.standard_error, two.standard_error))
    assert found.sd == pytest.approx(two.standard_error * math.sqrt(200)) == spread(ArmSums.of(m[1], d[1]))
    scaled = effect(ArmSums.of(m[0], d[0]), ArmSums.of(m[1], d[1]), 1.25)
    assert scaled.difference == pytest.approx(one.ratio - 1.25 * two.ratio)
    assert scaled.standard_error == pytest.approx(math.hypot(one.standard_error, 1.25 * two.standard_error))


def test_cuped_is_that_of_the_units():
    m, _, x = two_arms(2)
    ones = [1.0] * 200
    found = effect(ArmSums.of(m[0], ones, x[0]), ArmSums.of(m[1], ones, x[1]))
    expected = adjust.cuped([*m[1], *m[0]], [*x[1], *x[0]], [0] * 200 + [1] * 200)
    assert found.difference == pytest.approx(expected.difference)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)
    assert found.standard_error < effect(ArmSums.of(m[0], ones), ArmSums.of(m[1], ones)).standard_error


def test_cuped_on_a_ratio_works_on_linearised_values():
    m, d, x = two_arms(3)
    found = effect(ArmSums.of(m[0], d[0], x[0]), ArmSums.of(m[1], d[1], x[1]))
    ratios = [float(a.sum() / b.sum()) for a, b in zip(m, d, strict=True)]
    linear = [ratio + (a - ratio * b) / b.mean() for ratio, a, b in zip(ratios, m, d, strict=True)]
    expected = adjust.cuped([*linear[1], *linear[0]], [*x[1], *x[0]], [0] * 200 + [1] * 200)
    assert (found.difference, found.standard_error) == pytest.approx((expected.difference, expected.standard_error))


def test_a_covariate_that_does_not_vary_changes_nothing():
    m, d, _ = two_arms(4)
    same = [2.0] * 200
    plain = effect(ArmSums.of(m[0], d[0]), ArmSums.of(m[1], d[1]))
    assert effect(ArmSums.of(m[0], d[0], same), ArmSums.of(m[1], d[1], same)) == plain


def test_the_posterior_is_that_of_many_draws():
    draws = np.random.default_rng(5).normal(0.02, 0.03, 400_000)
    better, loss = posterior(0.02, 0.03)
    assert better == pytest.approx((draws > 0).mean(), abs=0.003)
    assert loss == pytest.approx(np.maximum(0, -draws).mean(), rel=0.02)
    with pytest.raises(InsufficientData):
        posterior(0.1, 0.0)


def test_too_little_is_said():
    one = ArmSums.of([1.0], [1.0])
    with pytest.raises(InsufficientData):
        effect(one, ArmSums.of([1.0, 0.0], [1.0, 1.0]))
    with pytest.raises(InsufficientData):
        ratio_of(ArmSums.of([], []))
    assert spread(one) == 0
