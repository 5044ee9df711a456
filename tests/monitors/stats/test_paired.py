"""Intervals over prompts: published values, coverage by seeded simulation, and nothing from no data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from monitors.stats.fixed import wilson_interval
from monitors.stats.paired import (
    bootstrap_interval,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    prompts_needed,
    sum_of_differences,
    upper_bound,
)
from monitors.stats.results import InsufficientData


def pairs(both, first, second, neither):
    """0-or-1 outcomes with these counts of the four kinds of pairs."""
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def test_newcombes_paired_example():
    """Newcombe (1998), paired method 10 for the table 36, 12, 2, 0: 0.2000 (0.0569, 0.3404)."""
    found = paired_difference(*pairs(36, 12, 2, 0))
    assert found.difference == pytest.approx(0.2)
    # the correlation is shrunk by 1/50, so the bounds differ in the fourth digit
    assert found.interval == pytest.approx((0.0569, 0.3404), abs=0.0005)


def test_zero_and_one_are_wilsons():
    assert mean_interval([1] * 15 + [0] * 85) == pytest.approx(wilson_interval(15, 100))
    assert mean_interval([1.0] * 20) == wilson_interval(20, 20)
    assert mean_interval([0.0]) == wilson_interval(0, 1)


def test_more_samples_of_a_prompt_are_no_more_prompts():
    """Prompts that are always right or always wrong: four samples of each say no more than one."""
    outcomes = [1.0] * 30 + [0.0] * 20
    assert mean_interval(outcomes, samples=4) == pytest.approx(wilson_interval(30, 50))
    half = mean_interval([0.5] * 50, samples=4)  # independent samples: as good as 200
    assert half == pytest.approx(wilson_interval(100, 200))


def test_mcnemar_is_statsmodels():
    for better, worse in [(12, 2), (5, 5), (1, 0), (30, 11)]:
        table = [[7, better], [worse, 3]]
        assert mcnemar_exact(better, worse) == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert mcnemar_exact(0, 0) is None


def test_upper_bounds():
    outcomes = [1] * 2 + [0] * 58
    assert upper_bound(outcomes) == pytest.approx(proportion_confint(2, 60, alpha=0.1, method="beta")[1])
    assert upper_bound([1, 1]) == 1.0
    for limit in (0.01, 0.05, 0.1):
        n = prompts_needed(limit)
        assert upper_bound([0] * n) <= limit < upper_bound([0] * (n - 1))


def test_identical_answers_are_no_proof_of_equality_on_few_prompts():
    few = paired_difference([1, 0, 1, 1, 0] * 2, [1, 0, 1, 1, 0] * 2)
    many = paired_difference([1, 0, 1, 1, 0] * 60, [1, 0, 1, 1, 0] * 60)
    assert few.difference == many.difference == 0 and few.p is many.p is None
    assert few.interval.lower < -0.05 and -0.01 < many.interval.lower < 0


def test_no_data_is_an_error():
    with pytest.raises(InsufficientData):
        mean_interval([])
    with pytest.raises(InsufficientData):
        paired_difference([1], [1])
    with pytest.raises(InsufficientData):
        sum_of_differences([])
    with pytest.raises(InsufficientData):
        bootstrap_interval(1, lambda index: 0.0)
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval([1.5])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval([float("nan"), 1])


def _outcomes(random, n, samples, lift):
    """Two models on n prompts of differing difficulty: shares of right samples, and their true means."""
    skill = random.beta(0.6, 0.6, n)
    better = np.clip(skill + lift, 0, 1)
    first = random.binomial(samples, better) / samples
    second = random.binomial(samples, skill) / samples
    return first, second


@pytest.mark.parametrize(("n", "samples", "lift"), [(40, 1, 0.0), (40, 4, 0.15), (200, 1, 0.1), (200, 8, 0.0)])
def test_coverage(n, samples, lift):
    """95 % intervals cover: the true values are those of 400,000 prompts; 99 % Clopper–Pearson bound on the misses."""
    truth_a, truth_b = (x.mean() for x in _outcomes(np.random.default_rng(1), 400_000, samples, lift))
    runs, covered, mean_covered = 2000, 0, 0
    random = np.random.default_rng(2)
    for _ in range(runs):
        a, b = _outcomes(random, n, samples, lift)
        low, high = paired_difference(a, b, samples=samples).interval
        covered += low <= truth_a - truth_b <= high
        low, high = mean_interval(a, samples=samples)
        mean_covered += low <= truth_a <= high
    for hits in (covered, mean_covered):
        assert binomtest(hits, runs, 0.94, alternative="less").pvalue > 0.01, hits / runs
        assert hits / runs < 0.99


@pytest.mark.parametrize("samples", [1, 4])
def test_equal_models_are_seldom_told_apart(samples):
    random = np.random.default_rng(3)
    ps = [paired_difference(*_outcomes(random, 80, samples, 0.0), samples=samples).p for _ in range(2000)]
    hits = sum(p is not None and p <= 0.05 for p in ps)
    assert binomtest(hits, len(ps), 0.05, alternative="greater").pvalue > 0.01


def test_the_mean_of_slices_covers():
    random = np.random.default_rng(4)
    hits, runs = 0, 1000
    for _ in range(runs):
        parts = [paired_difference(*_outcomes(random, n, 1, 0.0)) for n in (40, 60, 120)]
        low, high = sum_of_differences(parts)
        hits += low <= 0 <= high
    assert binomtest(hits, runs, 0.94, alternative="less").pvalue > 0.01


def test_the_bootstrap_covers_a_skewed_mean():
    random = np.random.default_rng(5)
    hits, runs = 0, 300
    for _ in range(runs):
        x = random.exponential(size=60)
        low, high = bootstrap_interval(60, lambda index, x=x: float(x[index].mean()), draws=400)
        hits += low <= 1 <= high
    assert binomtest(hits, runs, 0.93, alternative="less").pvalue > 0.01


def test_the_bootstrap_is_deterministic():
    x = np.arange(30.0)
    first, second = (bootstrap_interval(30, lambda index: float(x[index].mean()), seed=7) for _ in range(2))
    assert first == second and first.lower < x.mean() < first.upper
