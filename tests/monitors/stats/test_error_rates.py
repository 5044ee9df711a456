"""Error rates, coverage, power and detection times by seeded simulation of the shipped code."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from monitors.stats import (
    adjust,
    betting,
    bounded,
    changepoint,
    fixed,
    multiple,
    power,
    ratio_mismatch,
    sequential,
)
from monitors.stats.attribution import AttributionTest


def within(hits: int, runs: int, alpha: float) -> bool:
    """True unless the rate exceeds alpha by the 99 % Clopper–Pearson bound."""
    print(f"{hits} of {runs} = {hits / runs:.1%}, at most {alpha:.3g} allowed")  # shown by pytest -rP
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


# The design's table, but for share .10 and risk 50, where it says 6 and 10: four of four events are the candidate's with
# probability .847⁴ = .51, and they are e = 1417.
TABLE = [  # share, relative risk, median and 95th percentile of bad events until detection; None: over 4000
    (0.01, 2, 2204, None), (0.01, 5, 219, 484), (0.01, 10, 62, 143), (0.01, 50, 8, 23),
    (0.05, 2, 458, 1015), (0.05, 5, 52, 116), (0.05, 10, 19, 40), (0.05, 50, 5, 11),
    (0.10, 2, 256, 545), (0.10, 5, 33, 73), (0.10, 10, 14, 30), (0.10, 50, 4, 8),
    (0.50, 2, 142, 276), (0.50, 5, 29, 65), (0.50, 10, 18, 32), (0.50, 50, 12, 18),
]  # fmt: skip


@pytest.mark.parametrize(("share", "risk", "median", "p95"), TABLE)
def test_detection_times_of_the_attribution_table(share: float, risk: float, median: int, p95: int | None) -> None:
    rng = random.Random(int(share * 1000) * 1000 + int(risk))
    times = [detection(share, risk, rng) for _ in range(300 if median > 400 else 800)]
    slack = 0.2 * median if median > 10 else 1.5  # a few events: whole numbers are coarser than 20 %
    assert abs(statistics.median(times) - median) <= slack
    late = statistics.quantiles(times, n=20)[-1]
    if p95 is None:
        assert late > 4000
    else:
        assert abs(late - p95) <= max(0.25 * p95, 2)


def test_wrong_shares_make_false_alarms_certain_through_a_ramp() -> None:
    """With the share at assignment instead of the snapshot's: why every event carries its own."""
    rng, alarms = random.Random(9), 0
    for _ in range(50):
        test = AttributionTest(alpha=0.001)
        for event in range(2000):
            share = (0.01, 0.05, 0.25, 0.5)[event // 500]
            test.observe(rng.random() < share, 0.01)
        alarms += test.rejected
    assert alarms == 50


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


def test_the_one_sided_bound_covers_at_every_look_and_is_tighter() -> None:
    rng, runs, missed = np.random.default_rng(30), 400, 0
    looks = np.unique(np.geomspace(100, 4000, 40).astype(int))
    for _ in range(runs):
        a, b = rng.random(4000) < 0.3, rng.random(4000) < 0.3
        for n in looks:
            p1, p2 = a[:n].mean(), b[:n].mean()
            error = math.sqrt(p1 * (1 - p1) / n + p2 * (1 - p2) / n)
            low = sequential.asymptotic_interval(p1 - p2, error, 2 * n, one_sided=True).lower
            assert low > sequential.asymptotic_interval(p1 - p2, error, 2 * n).lower
            assert (sequential.asymptotic_p_above(p1 - p2, error, 2 * n) < 0.05) is bool(low > 0)
            if low > 0:
                missed += 1
                break
    assert within(missed, runs, 0.05)


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.5])
def test_bounds_from_sums_cover_at_every_look(rate: float) -> None:
    rng, runs, missed, early = np.random.default_rng(31), 300, 0, 0
    looks = np.unique(np.geomspace(1, 3000, 60).astype(int))
    for _ in range(runs):
        sums = np.cumsum(rng.random(3000) < rate)
        missed += any(bounded.bounded_log_e(int(sums[n - 1]), n, rate) >= math.log(20) for n in looks)
        fractions = np.cumsum(rng.beta(2 * rate, 2 * (1 - rate), 300))  # values between 0 and 1, same mean
        early += any(bounded.bounded_log_e(float(fractions[n - 1]), n, rate) >= math.log(20) for n in (5, 20, 100, 300))
    assert within(missed, runs, 0.05) and within(early, runs, 0.05)


def test_one_sided_betting_holds_its_level_and_finds_more() -> None:
    rng, runs, alarms, found, hedged = np.random.default_rng(32), 300, 0, 0, 0
    for _ in range(runs):
        x = rng.beta(2, 2, size=150)
        alarms += bool((betting.betting_e_below(x, 0.5) >= 20).any())
        worse = rng.beta(2, 2.6, size=150)
        found += bool((betting.betting_e_below(worse, 0.5) >= 20).any())
        hedged += bool((betting.betting_e(worse, 0.5) >= 20).any())
    assert within(alarms, runs, 0.05)
    assert found > hedged > 0.3 * runs


@pytest.mark.parametrize(("p1", "p2", "n"), [(0.3, 0.2, 60), (0.02, 0.01, 200), (0.5, 0.5, 25)])
def test_intervals_of_two_proportions_cover(p1: float, p2: float, n: int) -> None:
    rng, runs = np.random.default_rng(33), 2000
    missed = sum(
        not low <= p1 - p2 <= high
        for low, high in (fixed.newcombe_interval(rng.binomial(n, p1), n, rng.binomial(n, p2), n) for _ in range(runs))
    )
    assert within(missed, runs, 0.055)


def test_ratios_over_clustered_units_cover_where_requests_would_not() -> None:
    rng, runs, missed, naive = np.random.default_rng(34), 800, 0, 0
    for _ in range(runs):
        d = rng.integers(1, 12, 300)
        m = rng.binomial(d, rng.beta(0.6, 1.4, 300))  # answers of one user resemble each other
        ratio, error = adjust.ratio_estimate(m, d)
        missed += abs(ratio - 0.3) > 1.96 * error
        naive += abs(ratio - 0.3) > 1.96 * math.sqrt(ratio * (1 - ratio) / d.sum())
    assert within(missed, runs, 0.06)
    assert naive > 0.2 * runs  # what requests as units would make of it


def test_cuped_covers_with_less_variance() -> None:
    rng, runs, missed, shorter = np.random.default_rng(35), 600, 0, 0
    for _ in range(runs):
        x = rng.normal(0, 1, 200)
        y = 0.8 * x + 0.6 * rng.normal(0, 1, 200) + 0.3 * np.repeat([0, 1], 100)
        found = adjust.cuped(y, x, np.repeat([0, 1], 100))
        missed += abs(found.difference - 0.3) > 1.96 * found.standard_error
        shorter += found.standard_error < 0.75 * math.sqrt(y[:100].var() / 100 + y[100:].var() / 100)
    assert within(missed, runs, 0.06) and shorter == runs


def test_sample_sizes_have_the_power_they_promise() -> None:
    rng, runs = np.random.default_rng(36), 1500
    n = power.sample_size(0.3, 0.4)
    found = sum(fixed.two_proportion_z(*pair).p < 0.05 for pair in _pairs(rng, n, 0.4, 0.3, runs))
    assert 0.77 < found / runs < 0.84
    n = power.sample_size_noninferiority(0.8, -0.1)
    shown = sum(fixed.noninferiority_score(*pair, -0.1).p < 0.025 for pair in _pairs(rng, n, 0.8, 0.8, runs))
    assert 0.76 < shown / runs < 0.86


def _pairs(rng: np.random.Generator, n: int, p1: float, p2: float, runs: int) -> list[tuple[int, int, int, int]]:
    return [(int(a), n, int(b), n) for a, b in zip(rng.binomial(n, p1, runs), rng.binomial(n, p2, runs), strict=True)]


def test_multiple_testing_keeps_its_rates() -> None:
    """Two of six hypotheses are false; family-wise error by Holm, false discoveries by (e-)Benjamini–Hochberg."""
    rng, runs = np.random.default_rng(37), 1500
    false = np.array([True, True, False, False, False, False])
    family, discoveries, e_discoveries, powers = 0, [], [], 0
    for _ in range(runs):
        z = rng.normal(0, 1, 6) + 3.0 * false
        p = 2 * norm.sf(np.abs(z))
        family += bool((multiple.holm(p, 0.05) & ~false).any())
        powers += bool(multiple.holm(p, 0.05)[:2].any())
        found = multiple.benjamini_hochberg(p, 0.1)
        discoveries.append((found & ~false).sum() / max(1, found.sum()))
        found = multiple.e_benjamini_hochberg(np.exp(2.5 * z - 2.5**2 / 2), 0.1)
        e_discoveries.append((found & ~false).sum() / max(1, found.sum()))
    assert within(family, runs, 0.05) and powers > 0.8 * runs
    assert np.mean(discoveries) < 0.11 and np.mean(e_discoveries) < 0.11


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
