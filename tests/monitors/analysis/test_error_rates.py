"""How often the judgement errs, by seeded simulation of the shipped code with many looks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from monitors.analysis import (
    ArmSums,
    BadEvent,
    Decision,
    JudgeSpec,
    Measurements,
    MetricSpec,
    Verdict,
    harm_findings,
    judge,
)
from monitors.analysis.comparison import compare

SATISFACTION = MetricSpec(name="satisfaction", role="primary")
ERROR = MetricSpec(name="error")
SLOW = MetricSpec(name="slow_ttft")
REWARD = MetricSpec(name="reward", margin=0.2)


def within(hits: int, runs: int, alpha: float) -> bool:
    """True unless the rate exceeds alpha by the 99 % Clopper–Pearson bound."""
    print(f"{hits} of {runs} = {hits / runs:.1%}, at most {alpha:.3g} allowed")  # shown by pytest -rP
    return binomtest(hits, runs, alpha, alternative="greater").pvalue > 0.01


class Stream:
    """Units in the order in which they come, with running sums: `at(n)` is what the database would have added up."""

    def __init__(self, m: np.ndarray, d: np.ndarray, x: np.ndarray | None = None) -> None:
        parts = [m, m * m, d, d * d, m * d] + ([] if x is None else [x, x * x, x * m, x * d])
        self._sums = [np.cumsum(part) for part in parts]

    def at(self, n: int) -> ArmSums:
        return ArmSums(n, *(float(total[n - 1]) for total in self._sums))


def clustered(rng: np.random.Generator, n: int, rate: float, spread: float = 30.0) -> Stream:
    """One to six answers per unit; a unit's own rate varies, so its answers resemble each other."""
    d = rng.integers(1, 7, n)
    m = rng.binomial(d, rng.beta(rate * spread, (1 - rate) * spread, n) if 0 < rate < 1 else rate)
    return Stream(m.astype(float), d.astype(float))


LOOKS = np.unique(np.geomspace(20, 3000, 24).astype(int))


def ever(verdict: Verdict, metric: MetricSpec, candidate: Stream, stable: Stream, spec: JudgeSpec) -> bool:
    return any(compare(metric, candidate.at(n), stable.at(n), spec).verdict is verdict for n in LOOKS)


def ever_passes(metric: MetricSpec, candidate: Stream, stable: Stream, spec: JudgeSpec) -> bool:
    return ever(Verdict.PASS, metric, candidate, stable, spec)


@pytest.mark.parametrize(
    ("metric", "candidate_rate", "stable_rate"),
    [
        (SATISFACTION, 0.78, 0.80),                  # at the margin of two points
        (SATISFACTION, 0.97, 0.99),                  # where few are dissatisfied: the exact bounds
        (SATISFACTION, 0.98, 1.0),                   # nobody is, with stable: its bounds are exact to the end
        (SATISFACTION, 0.0, 0.02),                   # few are satisfied
        (ERROR, 0.012, 0.002),                       # rare: exact first, then asymptotic
        (ERROR, 0.06, 0.05),
        (SLOW, 0.25, 0.20),                          # at the ratio of 1.25
    ],
)
def test_a_version_at_the_margin_is_promoted_with_at_most_alpha(metric, candidate_rate, stable_rate):
    """Two dozen looks at clustered answers; the null is at its boundary."""
    rng, runs, hits = np.random.default_rng(11), 100, 0
    spec = JudgeSpec(metrics=(metric,))
    for _ in range(runs):
        arms = clustered(rng, 3000, candidate_rate), clustered(rng, 3000, stable_rate)
        hits += ever_passes(metric, *arms, spec)
    assert within(hits, runs, spec.alpha), hits / runs


@pytest.mark.parametrize(("candidate_rate", "stable_rate"), [(0.95, 1.0), (0.0, 0.05), (0.945, 0.995)])
def test_a_version_at_the_margin_is_hardly_ever_called_harmful(candidate_rate, stable_rate):
    """Where an outcome is rare: a user with six answers is six times as likely to meet it, which is no harm."""
    rng, runs, hits = np.random.default_rng(17), 100, 0
    metric = MetricSpec(name="reward", margin=0.05, margin_unit="absolute")
    spec = JudgeSpec(metrics=(metric,), harm_alpha=0.05)
    for _ in range(runs):
        arms = clustered(rng, 3000, candidate_rate), clustered(rng, 3000, stable_rate)
        hits += ever(Verdict.FAIL, metric, *arms, spec)
    assert within(hits, runs, spec.harm_alpha), hits / runs


def test_a_margin_in_standard_deviations_keeps_its_level_with_cuped():
    rng, runs, hits, adjusted, plain = np.random.default_rng(12), 100, 0, 0.0, 0.0
    spec = JudgeSpec(metrics=(REWARD,))
    for _ in range(runs):
        streams = []
        for mean in (0.5 - 0.2 * 0.15, 0.5):         # exactly the margin below
            before = rng.normal(0, 1, 3000)
            value = np.clip(mean + 0.15 * (0.7 * before + np.sqrt(1 - 0.49) * rng.normal(0, 1, 3000)), 0, 1)
            streams.append((value, before))
        with_x = [Stream(v, np.ones(3000), x) for v, x in streams]
        hits += ever_passes(REWARD, *with_x, spec)
        last = compare(REWARD, *(s.at(3000) for s in with_x), spec)
        without = compare(REWARD, *(Stream(v, np.ones(3000)).at(3000) for v, _ in streams), spec)
        adjusted += last.upper - last.lower
        plain += without.upper - without.lower
    assert within(hits, runs, spec.alpha), hits / runs
    assert adjusted < 0.8 * plain                    # √(1 − .7²) = .71


def test_power_a_good_version_passes():
    rng, passed = np.random.default_rng(13), 0
    spec = JudgeSpec(metrics=(ERROR, SLOW), tuning_units=5000)
    for _ in range(40):
        arms = {m: (clustered(rng, 3000, r), clustered(rng, 3000, r)) for m, r in ((ERROR, 0.005), (SLOW, 0.03))}
        passed += all(ever_passes(metric, *pair, spec) for metric, pair in arms.items())
    assert passed >= 32


def test_the_interval_covers_at_every_look():
    rng, runs, missed = np.random.default_rng(14), 100, 0
    spec = JudgeSpec(metrics=(SATISFACTION,), alpha=0.025)  # each end is a 97.5 % bound
    for _ in range(runs):
        one, two = clustered(rng, 3000, 0.75), clustered(rng, 3000, 0.7)
        for n in LOOKS:
            found = compare(SATISFACTION, one.at(n), two.at(n), spec)
            if found.lower is not None and not found.lower <= 0.05 <= found.upper:
                missed += 1
                break
    assert within(missed, runs, 0.05), missed / runs


def test_a_fixed_horizon_holds_its_level_and_its_power():
    rng, runs = np.random.default_rng(15), 1500
    spec = JudgeSpec(metrics=(SATISFACTION,), horizon=5000)

    def rate(candidate: float) -> int:
        draws = rng.binomial(5000, (candidate, 0.8), size=(runs, 2))
        arms = [[ArmSums(5000, int(k), int(k), 5000, 5000, int(k)) for k in row] for row in draws]
        return sum(compare(SATISFACTION, *pair, spec).verdict is Verdict.PASS for pair in arms)

    assert within(rate(0.78), runs, spec.alpha)
    assert rate(0.80) > 0.75 * runs                  # 4,950 units an arm have a power of 80 %


def test_harmless_versions_are_rolled_back_with_at_most_alpha_over_all_guardrails():
    """Three kinds of events, of which each comes with its own share of alpha; shares as in a ramp."""
    rng, runs, hits = np.random.default_rng(16), 400, 0
    spec = JudgeSpec(metrics=(ERROR, SLOW, MetricSpec(name="empty")), harm_alpha=0.05)
    for _ in range(runs):
        shares = np.repeat([0.01, 0.05, 0.25, 0.5], 50)
        found = {m.name: [BadEvent(bool(rng.random() < s), s) for s in shares] for m in spec.metrics}
        hits += any(f.verdict is Verdict.FAIL for f in harm_findings(spec, found))
    assert within(hits, runs, 0.05), hits / runs


def test_equal_versions_are_not_condemned_by_means_or_pairs():
    rng, runs, hits = np.random.default_rng(17), 80, 0
    spec = JudgeSpec(metrics=(SATISFACTION,), harm_alpha=0.05, advance="no_harm")
    shadow = JudgeSpec(metrics=(MetricSpec(name="reward"),), harm_alpha=0.05, shadow=True, min_pairs=1)
    for _ in range(runs):
        one, two = clustered(rng, 3000, 0.78), clustered(rng, 3000, 0.8)
        looks = (Measurements(1.0, n, n, metrics={"satisfaction": (one.at(n), two.at(n))}) for n in LOOKS)
        hits += any(judge(spec, look).decision is Decision.ROLLBACK for look in looks)
        differences = np.clip(rng.normal(0, 0.3, 300), -1, 1).tolist()
        hits += judge(shadow, Measurements(1.0, pairs={"reward": differences})).decision is Decision.ROLLBACK
    assert within(hits, runs, 0.1), hits / runs
