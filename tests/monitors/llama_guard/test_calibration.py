"""Thresholds, intervals and temperatures: reference values, and simulations with a known truth (seeded)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from monitors.llama_guard.calibration import (
    calibrate,
    clopper_pearson,
    conformal_rank,
    conformal_threshold,
    cross_fitted_error,
    fit_temperature,
    quantile_interval,
)
from monitors.llama_guard.reliability_plot import draw
from monitors.stats.results import InsufficientData


@pytest.mark.parametrize(("n", "f", "rank"), [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (999, 0.05, 950), (9, 0.1, 9)])
def test_the_rank_is_the_conformal_one(n, f, rank):
    assert conformal_rank(n, f) == rank == math.ceil(round((n + 1) * (1 - f), 9))


def test_the_threshold_is_that_score():
    scores = [n / 1000 for n in range(199)]
    np.random.default_rng(1).shuffle(scores)
    assert conformal_threshold(scores, 0.01) == 0.197


@pytest.mark.parametrize(("n", "f", "needed"), [(98, 0.01, 99), (0, 0.05, 19), (500, 0.001, 999)])
def test_too_few_benign_texts_are_refused_with_the_number_that_is_needed(n, f, needed):
    with pytest.raises(InsufficientData, match=rf"at least {needed} benign texts, there are {n}:"):
        conformal_rank(n, f)
    assert conformal_rank(needed, f) == needed


def test_no_unsafe_text_is_no_calibration():
    with pytest.raises(InsufficientData, match="no row is labelled unsafe"):
        calibrate(np.zeros(200), np.zeros(200), 0.01)


@pytest.mark.parametrize(("margins", "labels"), [([math.nan], [0]), ([0.0, 1.0], [0]), ([0.0], [2])])
def test_wrong_input_is_refused(margins, labels):
    with pytest.raises(ValueError, match="finite"):
        calibrate(margins, labels, 0.1)


def test_new_benign_texts_exceed_the_threshold_as_seldom_as_wanted():
    rng, rates = np.random.default_rng(7), []
    for _ in range(4000):
        scores = rng.normal(size=100)
        rates.append(rng.normal() > conformal_threshold(scores, 0.05))
    # exactly (n + 1 - k)/(n + 1) = 5/101 in truth; 4000 draws have a standard error of 0.0034
    assert np.mean(rates) == pytest.approx(5 / 101, abs=0.011)


def test_the_interval_of_the_rate_holds_the_true_one_in_95_of_100():
    rng, held, quantiles = np.random.default_rng(3), 0, 0
    for _ in range(600):
        margins = rng.logistic(size=240)
        found = calibrate(margins, np.repeat([0, 1], [200, 40]), 0.05)
        margin = -math.log(1 / found.threshold - 1) * found.temperature
        true_rate = 1 / (1 + math.exp(margin))
        held += found.fpr_interval.lower <= true_rate <= found.fpr_interval.upper
        true_quantile = 1 / (1 + math.exp(-math.log(19) / found.temperature))
        quantiles += found.threshold_interval.lower <= true_quantile <= found.threshold_interval.upper
    assert held / 600 == pytest.approx(0.95, abs=0.03)
    assert quantiles / 600 > 0.93


def test_clopper_pearson_reference_values():
    # R: binom.test(5, 20)$conf.int and binom.test(0, 10), binom.test(10, 10)
    assert clopper_pearson(5, 20) == pytest.approx((0.08657147, 0.4910459), abs=1e-6)
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3084971), abs=1e-6)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915029, 1.0), abs=1e-6)


def test_the_order_statistics_interval_is_the_binomial_one():
    ordered = np.arange(1.0, 201.0)
    low, high = quantile_interval(ordered, 0.95)
    # P(X_(r) <= q) = P(at least r of n fall below q)
    assert 1 - binom.cdf(low - 1, 200, 0.95) >= 0.975 > 1 - binom.cdf(low, 200, 0.95)
    assert 1 - binom.cdf(high - 1, 200, 0.95) <= 0.025 < 1 - binom.cdf(high - 2, 200, 0.95)
    assert quantile_interval(np.arange(20.0), 0.99).upper == math.inf


def overconfident(n, temperature, seed=0):
    """Margins that are `temperature` times too large: the truth is known."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-honest))).astype(float)
    return honest * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_is_the_true_one(temperature):
    margins, labels = overconfident(20_000, temperature)
    assert fit_temperature(margins, labels) == pytest.approx(temperature, rel=0.05)


def test_calibration_makes_an_overconfident_guard_honest():
    margins, labels = overconfident(6000, 4.0)
    found = calibrate(margins, labels, 0.05)
    assert found.ece_before > 0.1 > 0.03 > found.ece_after
    assert found.measured_fpr <= 0.05
    assert found.recall_interval.lower < found.recall < found.recall_interval.upper
    assert sum(one.count for one in found.reliability) == 6000
    assert all(abs(one.score - one.unsafe) < 0.1 for one in found.reliability)


def test_a_temperature_is_not_judged_by_the_texts_it_was_fitted_to():
    margins, labels = overconfident(40, 8.0, seed=5)
    fitted = fit_temperature(margins, labels)
    assert fitted > 1
    assert cross_fitted_error(margins, labels) > 0


def test_the_plot_shows_every_bin_and_the_threshold():
    margins, labels = overconfident(2000, 2.0)
    found = calibrate(margins, labels, 0.05)
    svg = draw(found)
    assert svg.startswith("<svg ") and svg.rstrip().endswith("</svg>")
    assert svg.count("<circle") == len(found.reliability) > 5
    assert f"threshold {found.threshold:.4f}" in svg
