"""Error rates, coverage, power and detection times by seeded simulation of the shipped code."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest

from monitors.stats import betting, changepoint, fixed, ratio_mismatch, sequential
from monitors.stats.attribution import AttributionTest


def within(hits: int, runs: int, alpha: float) -> bool:
    """True unless the rate exceeds alpha by the 99 % Clopper–Pearson bound."""
    return binomtest(hits, runs, alpha, alternative="greater").pvalue > 0.01


def attributed(share: float, risk: float) -> float:
    return share * risk / (share * risk + 1 - share)


def detection(share: float, risk: float, rng: random.Random, limit: int = 4000) -> int:
    """Bad events of both arms until rejection."""
    test = AttributionTest()
    chance = attributed(share, risk)
    for event in range(1, limit + 1):
        test.observe(rng.random() < chance, share)
        if test.rejected:
            return event
    return limit + 1


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_attribution_keeps_its_promise_at_every_look_through_a_ramp(alpha: float) -> None:
    rng, runs, hits = random.Random(1), 600, 0
    for _ in range(runs):
        test = AttributionTest(alpha=alpha)
        for event in range(400):
            share = (0.01, 0.05, 0.25, 0.5)[event // 100]
            test.observe(rng.random() < share, share)
        hits += test.rejected
    assert within(hits, runs, alpha)


def test_attribution_tolerates_the_risk_it_is_told_to_tolerate() -> None:
    rng, runs, hits = random.Random(2), 400, 0
    for _ in range(runs):
        test = AttributionTest(alpha=0.05, null_risk=1.25)
        for _ in range(400):
            test.observe(rng.random() < attributed(0.1, 1.25), 0.1)
        hits += test.rejected
    assert within(hits, runs, 0.05)


@pytest.mark.parametrize(
    ("share", "risk", "median", "p95"),
    [(0.01, 50, 8, 23), (0.05, 5, 52, 116), (0.05, 10, 19, 40), (0.1, 5, 33, 73), (0.1, 10, 14, 30), (0.5, 5, 29, 65)],
)
def test_detection_times_of_the_attribution_table(share: float, risk: float, median: int, p95: int) -> None:
    rng = random.Random(int(share * 1000) * 1000 + int(risk))
    times = [detection(share, risk, rng) for _ in range(500)]
    assert statistics.median(times) <= median * 1.2 + 1
    assert statistics.quantiles(times, n=20)[-1] <= p95 * 1.2 + 1


def test_the_confidence_sequence_covers_at_every_look() -> None:
    rng, runs, missed = np.random.default_rng(3), 400, 0
    looks = np.unique(np.geomspace(100, 4000, 40).astype(int))
    for _ in range(runs):
        a, b = rng.random(4000) < 0.3, rng.random(4000) < 0.3
        for n in looks:
            p1, p2 = a[:n].mean(), b[:n].mean()
            error = math.sqrt(p1 * (1 - p1) / n + p2 * (1 - p2) / n)
            low, high = sequential.asymptotic_interval(p1 - p2, error, 2 * n)
            if not low <= 0 <= high:
                missed += 1
                break
    assert within(missed, runs, 0.05)


def test_the_confidence_sequence_has_power() -> None:
    rng, found = np.random.default_rng(4), 0
    for _ in range(200):
        p1, p2 = (rng.random(4000) < 0.36).mean(), (rng.random(4000) < 0.30).mean()
        error = math.sqrt(p1 * (1 - p1) / 4000 + p2 * (1 - p2) / 4000)
        found += sequential.asymptotic_interval(p1 - p2, error, 8000).lower > 0
    assert found > 180


def test_betting_is_an_e_process_and_its_intervals_cover() -> None:
    rng, runs, alarms, missed = np.random.default_rng(5), 400, 0, 0
    for _ in range(runs):
        x = rng.beta(2, 3, size=150)
        alarms += bool((betting.betting_e(x, 0.4) >= 20).any())
        low, high = betting.betting_interval(x, grid=200)
        missed += not low <= 0.4 <= high
    assert within(alarms, runs, 0.05) and within(missed, runs, 0.05)


def test_ratio_mismatch_false_alarms_and_detection() -> None:
    rng, runs, alarms = np.random.default_rng(6), 500, 0
    for _ in range(runs):
        test = ratio_mismatch.RatioMismatchTest((0.05, 0.95))
        counts = np.cumsum(rng.binomial(50, 0.05, size=60))
        alarms += any(test.observe((int(c), 50 * (i + 1) - int(c))) >= math.log(20) for i, c in enumerate(counts))
    assert within(alarms, runs, 0.05)
    test = ratio_mismatch.RatioMismatchTest((0.05, 0.95))
    assert test.observe((800, 9200)) > math.log(1000)


def test_shiryaev_roberts_run_length_and_detection() -> None:
    rng, runs, early = random.Random(7), 200, 0
    for _ in range(runs):
        detector = changepoint.ShiryaevRoberts(0.5, threshold=2000)
        early += any(detector.observe(rng.random()) >= 2000 for _ in range(1000))
    assert early / runs < 0.5  # the average run length is at least 2000
    delays = []
    for _ in range(50):
        detector = changepoint.ShiryaevRoberts(0.5, threshold=2000)
        delays.append(next(i for i in range(10_000) if detector.observe(rng.random() ** 0.5) >= 2000))
    assert statistics.median(delays) < 150


def test_fixed_tests_hold_their_level() -> None:
    rng, runs = np.random.default_rng(8), 2000
    hits = {"z": 0, "welch": 0, "noninferiority": 0, "newcombe": 0}
    for _ in range(runs):
        x1, x2 = rng.binomial(400, 0.3, size=2)
        hits["z"] += fixed.two_proportion_z(x1, 400, x2, 400).p < 0.05
        low, high = fixed.newcombe_interval(x1, 400, x2, 400)
        hits["newcombe"] += not low <= 0 <= high
        hits["noninferiority"] += fixed.noninferiority_score(rng.binomial(400, 0.2), 400, x2, 400, -0.1).p < 0.05
        a, b = rng.normal(0, 1, 40), rng.normal(0, 3, 15)
        hits["welch"] += fixed.welch(a.mean(), a.var(ddof=1), 40, b.mean(), b.var(ddof=1), 15).p < 0.05
    assert all(within(count, runs, 0.055) for count in hits.values()), hits
