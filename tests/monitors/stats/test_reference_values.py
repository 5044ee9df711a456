"""Every function against published or hand-worked values, and against scipy and statsmodels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as sp
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from monitors import text
from monitors.stats import (
    adjust,
    attribution,
    betting,
    bounded,
    changepoint,
    fixed,
    multiple,
    power,
    ratio_mismatch,
    scores,
    sequential,
)
from monitors.stats.results import InsufficientData

SIGNATURES = {  # contract.md, public functions: users and checks rely on these names and defaults
    attribution.AttributionTest: {"alpha": 0.001, "null_risk": 1.0, "risks": (1.25, 1.5, 2, 3, 5, 10, 30, 100)},
    sequential.asymptotic_interval: {
        "difference": None, "standard_error": None, "n": None, "alpha": 0.05, "tuning_n": 5000, "one_sided": False
    },
    sequential.asymptotic_p: {"difference": None, "standard_error": None, "n": None, "alpha": 0.05, "tuning_n": 5000},
    betting.betting_e: {"x": None, "mean": None, "alpha": 0.05},
    betting.betting_interval: {"x": None, "alpha": 0.05, "grid": 1000},
    ratio_mismatch.RatioMismatchTest: {"weights": None, "concentration": 100},
    ratio_mismatch.chi_square_p: {"counts": None, "weights": None},
    fixed.two_proportion_z: {"x1": None, "n1": None, "x2": None, "n2": None},
    fixed.newcombe_interval: {"x1": None, "n1": None, "x2": None, "n2": None, "alpha": 0.05},
    fixed.welch: {
        "mean1": None, "variance1": None, "n1": None, "mean2": None, "variance2": None, "n2": None, "alpha": 0.05
    },
    fixed.noninferiority_score: {"x1": None, "n1": None, "x2": None, "n2": None, "margin": None},
    adjust.cuped: {"y": None, "x": None, "group": None},
    adjust.ratio_estimate: {"numerator": None, "denominator": None},
    power.sample_size: {"p1": None, "p2": None, "alpha": 0.05, "power": 0.8},
    power.sample_size_noninferiority: {"p": None, "margin": None, "alpha": 0.025, "power": 0.8},
    multiple.holm: {"p": None, "alpha": 0.05},
    multiple.benjamini_hochberg: {"p": None, "alpha": 0.05},
    multiple.e_benjamini_hochberg: {"e": None, "alpha": 0.05},
    changepoint.ShiryaevRoberts: {"mean": None, "bets": (0.25, 0.5, 1.0, 1.8), "threshold": 1e4},
    scores.expected_calibration_error: {"confidence": None, "correct": None, "bins": 10, "scheme": "width"},
    scores.pass_at_k: {"n": None, "c": None, "k": None},
    scores.bradley_terry: {"wins": None},
    text.distinct_n: {"tokens": None, "n": None},
    text.duplicate_ngram_fraction: {"tokens": None, "n": 4},
    text.compression_ratio: {"text": None, "level": 6},
    text.unigram_entropy: {"tokens": None},
}  # fmt: skip


@pytest.mark.parametrize("function", list(SIGNATURES), ids=lambda function: function.__name__)
def test_public_names_are_those_of_the_contract(function: Callable[..., object]) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: None if p.default is p.empty else p.default for p in parameters}
    assert list(found.items()) == list(SIGNATURES[function].items())
    assert function.__doc__


def test_attribution() -> None:
    test = attribution.AttributionTest()
    found = [math.exp(test.observe(candidate, 0.05)) for candidate in (True, True, False, True)]
    assert found == pytest.approx([5.930607, 64.007358, 21.219174, 232.960559], rel=1e-6)
    assert (test.events, test.candidate_events, test.rejected) == (4, 3, False)
    for _ in range(2):
        test.observe(True, 0.05)
    assert test.rejected
    for _ in range(500):
        test.observe(False, 0.05)
    assert test.rejected and test.log_e < 0  # a rejection stands


def test_asymptotic_confidence_sequence() -> None:
    assert sequential.mixture_scale() == pytest.approx(0.0398400668, abs=1e-10)
    assert sequential.mixture_scale(tuning_n=1000) == pytest.approx(0.0890850975, abs=1e-10)
    error = math.sqrt(0.12 * 0.88 / 1000 + 0.15 * 0.85 / 1000)
    low, high = sequential.asymptotic_interval(0.03, error, 2000)
    assert (high - low) / 2 == pytest.approx(0.0476926496, abs=1e-9)
    assert sequential.asymptotic_p(0.03, error, 2000) == pytest.approx(0.4706907779, abs=1e-9)
    assert sequential.half_width(error, 2000, one_sided=True) < sequential.half_width(error, 2000)


@pytest.mark.parametrize("z", [0.5, 2.0, 3.0, 3.2, 4.0])
def test_the_sequential_p_agrees_with_the_interval(z: float) -> None:
    low, _ = sequential.asymptotic_interval(z * 0.01, 0.01, 3000)
    assert (sequential.asymptotic_p(z * 0.01, 0.01, 3000) < 0.05) is (low > 0)


def test_betting() -> None:
    e = betting.betting_e([1, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 10, 0.5)
    assert e[[9, 49, 99]] == pytest.approx([1.06787109, 18.29571321, 263.95946599], rel=1e-8)
    low, high = betting.betting_interval([1, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 10)
    assert low < 0.7 < high and low > 0.5


def test_bounds_from_sums() -> None:
    def by_integration(total: float, n: float, mean: float) -> float:
        """The averaged likelihood ratio, integrated over both priors."""
        parts = [
            quad(lambda q, a=a, b=b: sp.beta.pdf(q, a, b) * (q / mean) ** total * ((1 - q) / (1 - mean)) ** (n - total), 0, 1)[0]
            for a, b in bounded.PRIORS
        ]
        return math.log(sum(parts) / 2)

    for total, n, mean in ((0, 20, 0.1), (3, 20, 0.1), (2.5, 10, 0.4), (10, 10, 0.9)):
        assert bounded.bounded_log_e(total, n, mean) == pytest.approx(by_integration(total, n, mean), abs=1e-6)
    low, high = bounded.bounded_interval(3, 200)
    assert bounded.bounded_log_e(3, 200, low) == pytest.approx(math.log(20)) == bounded.bounded_log_e(3, 200, high)
    assert bounded.bounded_interval(0, 50).lower == 0 and bounded.bounded_interval(50, 50).upper == 1
    assert bounded.bounded_interval(0, 1000, 0.025).upper == pytest.approx(0.00581, abs=1e-5)


def test_betting_one_sided() -> None:
    x = [0.0, 0.2, 0.1] * 10
    assert betting.betting_e_below(x, 0.5)[-1] > betting.betting_e(x, 0.5)[-1] > 20
    assert betting.betting_e_below([1 - v for v in x], 0.5)[-1] < 1


def test_ratio_mismatch() -> None:
    test = ratio_mismatch.RatioMismatchTest((0.05, 0.95))
    assert test.log_e == 0
    assert test.observe((560, 9440)) == pytest.approx(1.2419174907, abs=1e-9)
    assert ratio_mismatch.chi_square_p((821588, 815482), (1, 1)) == pytest.approx(1.82179e-6, rel=1e-5)
    assert ratio_mismatch.chi_square_p((30, 50, 20), (1, 2, 1)) == pytest.approx(
        sp.chisquare((30, 50, 20), (25, 50, 25)).pvalue
    )


def test_two_proportions() -> None:
    z, p = fixed.two_proportion_z(150, 1000, 120, 1000)
    assert (z, p) == pytest.approx((1.963049808, 0.0496403869), abs=1e-9)
    assert (z, p) == pytest.approx(proportions_ztest([150, 120], [1000, 1000]))
    low, high = fixed.newcombe_interval(150, 1000, 120, 1000)
    assert (low, high) == pytest.approx((0.0000137824, 0.0600082586), abs=1e-10)
    assert (low, high) == pytest.approx(confint_proportions_2indep(150, 1000, 120, 1000, method="newcomb"))


def test_welch() -> None:
    a, b = 1396.87 / 3407, 2422.7 / 3461
    va, vb = (52377.9767 - 3407 * a**2) / 3406, (134698.29 - 3461 * b**2) / 3460
    found = fixed.welch(b, vb, 3461, a, va, 3407)
    assert found.difference == pytest.approx(0.29, abs=1e-9)
    assert (found.standard_error, found.p) == pytest.approx((0.12478, 0.02016), abs=1e-5)
    assert found.interval == pytest.approx((0.04538, 0.53462), abs=1e-5)
    x, y = np.arange(10.0), np.arange(7.0) * 2 + 1
    ours = fixed.welch(x.mean(), x.var(ddof=1), 10, y.mean(), y.var(ddof=1), 7)
    assert ours.p == pytest.approx(sp.ttest_ind(x, y, equal_var=False).pvalue)


@pytest.mark.parametrize(
    ("x1", "n1", "x2", "n2", "margin"), [(82, 100, 85, 100, -0.1), (10, 400, 4, 100, -0.02), (5, 9, 9, 9, -0.3)]
)
def test_the_constrained_likelihood_is_the_maximum(x1: int, n1: int, x2: int, n2: int, margin: float) -> None:
    def loss(p1: float) -> float:
        p2 = p1 - margin
        return -(sp.binom.logpmf(x1, n1, p1) + sp.binom.logpmf(x2, n2, p2))

    best = minimize_scalar(loss, bounds=(1e-9, 1 + margin - 1e-9), method="bounded", options={"xatol": 1e-10}).x
    assert fixed._constrained(x1, n1, x2, n2, margin)[0] == pytest.approx(best, abs=1e-5)


def test_noninferiority() -> None:
    z, p = fixed.noninferiority_score(82, 100, 85, 100, -0.1)
    p1, p2 = fixed._constrained(82, 100, 85, 100, -0.1)
    assert z == pytest.approx((-0.03 + 0.1) / math.sqrt(p1 * (1 - p1) / 100 + p2 * (1 - p2) / 100))
    assert p == pytest.approx(sp.norm.sf(z)) and 0.05 < p < 0.15
    assert fixed.noninferiority_score(700, 1000, 700, 1000, -0.1).p < 1e-4


def test_cuped_and_ratio() -> None:
    y = [2, 3, 3, 5, 6, 6, 8, 9, 4, 4, 6, 6, 8, 8, 10, 10]
    x = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 4, 5, 6, 7, 8, 9]
    found = adjust.cuped(y, x, [0] * 8 + [1] * 8)
    assert (found.theta, found.difference) == pytest.approx((0.97619048, 0.77380952), abs=1e-8)
    assert np.mean(y[8:]) - np.mean(y[:8]) == pytest.approx(1.75)
    assert adjust.ratio_estimate([1, 0, 2, 1, 3, 0, 1, 2], [2, 1, 3, 2, 4, 1, 1, 2]) == pytest.approx(
        (0.625, 0.0914906318)
    )


def test_sample_sizes() -> None:
    assert power.sample_size(0.10, 0.12) == 3841
    n = power.sample_size_noninferiority(0.7, -0.02)
    z = NormalIndPower(ddof=0).solve_power(0.02 / math.sqrt(0.7 * 0.3), alpha=0.025, power=0.8, alternative="larger")
    assert n == pytest.approx(z, rel=1e-3)
    assert power.design_effect(5, 0.1) == pytest.approx(1.4)


def test_multiple() -> None:
    assert multiple.e_benjamini_hochberg([400, 90, 60, 10, 1], 0.05).tolist() == [True, True, True, False, False]
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.beta(0.4, 2, size=9)
        assert multiple.holm(p, 0.05).tolist() == multipletests(p, 0.05, "holm")[0].tolist()
        assert multiple.benjamini_hochberg(p, 0.05).tolist() == multipletests(p, 0.05, "fdr_bh")[0].tolist()


def test_shiryaev_roberts() -> None:
    detector = changepoint.ShiryaevRoberts(0.5, [0.5])
    assert [detector.observe(x) for x in (1, 1, 0, 1)] == pytest.approx([1.25, 2.8125, 2.859375, 4.82421875])
    for _ in range(100_000):
        detector.observe(1.0)
    assert detector.alarm and math.isfinite(detector.value)


def test_scores() -> None:
    sure, right = [0.97, 0.91, 0.84, 0.77, 0.66, 0.58, 0.43, 0.36, 0.22, 0.04], [1, 1, 0, 1, 1, 0, 1, 0, 0, 0]
    assert scores.expected_calibration_error(sure, right, 5) == pytest.approx(0.192)
    assert scores.expected_calibration_error([0.0, 1.0], [0, 1], 10) == 0
    assert scores.expected_calibration_error([0.2, 0.4, 0.9, 0.9], [0, 1, 1, 1], 2, "mass") == pytest.approx(
        (0.4 + 0.2) / 4
    )
    assert scores.pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert scores.pass_at_k(200, 50, 10) == pytest.approx(0.9479064, abs=1e-7)
    assert scores.pass_at_k(5, 4, 2) == 1.0


def test_bradley_terry_is_the_maximum_of_its_likelihood() -> None:
    wins = np.array([[0, 7, 3], [2, 0, 5], [6, 1, 0]], float)
    strength = scores.bradley_terry(wins)
    assert math.exp(np.log(strength).mean()) == pytest.approx(1.0)
    chances = strength[:, None] / (strength[:, None] + strength[None, :])
    expected = (chances * (wins + wins.T)).sum(axis=1)
    assert expected == pytest.approx(wins.sum(axis=1))  # the score equations


def test_text() -> None:
    words = ["the", "cat", "sat", "on", "the", "mat", "the", "cat", "sat", "on", "the", "rug"]
    assert [text.distinct_n(words, n) for n in (1, 2, 3, 4)] == pytest.approx([0.5, 0.636364, 0.7, 0.777778], abs=1e-6)
    assert text.unigram_entropy(words) == pytest.approx(1.6762349)
    assert text.duplicate_ngram_fraction(words) == pytest.approx(1 - 0.777778, abs=1e-6)
    assert text.duplicate_ngram_fraction(["a"]) == 0
    assert text.compression_ratio("Sure! " * 100) > 10 > 1.5 > text.compression_ratio("abc") > 0
    assert text.compression_ratio("") == 1


CANNOT = [
    lambda: fixed.two_proportion_z(0, 10, 0, 10),
    lambda: fixed.two_proportion_z(1, 0, 1, 10),
    lambda: fixed.welch(1, 0, 5, 2, 0, 5),
    lambda: fixed.welch(1, 1, 1, 2, 1, 5),
    lambda: fixed.noninferiority_score(0, 0, 1, 5, -0.1),
    lambda: sequential.asymptotic_interval(0, 0, 100),
    lambda: sequential.asymptotic_p(0, 0.1, 0),
    lambda: betting.betting_interval([]),
    lambda: bounded.bounded_interval(0, 0),
    lambda: sequential.asymptotic_p_above(0.1, 0, 100),
    lambda: ratio_mismatch.chi_square_p((1, 1), (1, 1)),
    lambda: adjust.cuped([1, 2, 3, 4], [1, 1, 1, 1], [0, 0, 1, 1]),
    lambda: adjust.ratio_estimate([1], [1]),
    lambda: scores.expected_calibration_error([], []),
    lambda: scores.bradley_terry([[0, 1], [0, 0]]),
]
WRONG = [
    lambda: attribution.AttributionTest(alpha=0),
    lambda: attribution.AttributionTest(risks=(1.0,)),
    lambda: attribution.AttributionTest().observe(True, 1.0),
    lambda: fixed.two_proportion_z(11, 10, 1, 10),
    lambda: fixed.noninferiority_score(1, 5, 1, 5, 0.1),
    lambda: sequential.asymptotic_p(math.nan, 0.1, 10),
    lambda: betting.betting_e([1.5], 0.5),
    lambda: betting.betting_e_below([0.5], 1.5),
    lambda: bounded.bounded_interval(11, 10),
    lambda: bounded.bounded_log_e(1, 10, 0.0),
    lambda: bounded.bounded_interval(math.nan, 10),
    lambda: sequential.asymptotic_p_above(math.nan, 0.1, 10),
    lambda: betting.betting_e([math.nan], 0.5),
    lambda: ratio_mismatch.RatioMismatchTest((1,)),
    lambda: ratio_mismatch.RatioMismatchTest((1, 1)).observe((-1, 0)),
    lambda: power.sample_size(0.1, 0.1),
    lambda: power.sample_size_noninferiority(0.1, 0),
    lambda: multiple.holm([0.1, math.nan]),
    lambda: multiple.e_benjamini_hochberg([-1]),
    lambda: changepoint.ShiryaevRoberts(0.5, [2.0]),
    lambda: changepoint.ShiryaevRoberts(0.5).observe(math.nan),
    lambda: scores.pass_at_k(5, 6, 1),
    lambda: text.distinct_n([], 1),
]


@pytest.mark.parametrize("call", CANNOT)
def test_what_cannot_be_computed_is_no_verdict(call: object) -> None:
    with pytest.raises(InsufficientData):
        call()  # type: ignore[operator]  # parametrize gives objects


@pytest.mark.parametrize("call", WRONG)
def test_what_makes_no_sense_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        call()  # type: ignore[operator]  # parametrize gives objects
