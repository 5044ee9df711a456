"""What a reward meant on the baseline."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from monitors.collapse.calibration import Calibration, Reference, fit
from monitors.stats.results import InsufficientData


def baseline(n: int = 2000, seed: int = 1, slope: float = 0.9):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(3.0, 2.0, n)
    chance = 1 / (1 + np.exp(-(1.6 + slope * (rewards - 3.0) / 2.0)))
    return rewards, (rng.random(n) < chance).astype(float)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_tax_of_the_baseline_is_nothing(method):
    rewards, satisfied = baseline()
    found = fit(rewards, satisfied, method=method)
    q = np.array([found.predict(r) for r in rewards])
    assert abs(q.mean() - satisfied.mean()) < 1e-3
    for low, high in ((-9, 1), (1, 3), (3, 5), (5, 13)):  # and so it is for every level of the reward
        part = (rewards >= low) & (rewards < high)
        assert abs(q[part].mean() - satisfied[part].mean()) < 0.04


def test_platts_curve_is_the_true_one():
    found = fit(*baseline(40_000))
    ((intercept, slope),) = found.curve
    assert (intercept, slope) == (pytest.approx(1.6, abs=0.06), pytest.approx(0.9, abs=0.06))
    assert (found.reward, found.reward_sd) == (pytest.approx(3, abs=0.05), pytest.approx(2, abs=0.05))


def test_it_agrees_with_statsmodels_and_scipy():
    import statsmodels.api as sm
    from scipy.stats import pearsonr

    rewards, satisfied = baseline(5000)
    z = (rewards - rewards.mean()) / rewards.std(ddof=1)
    oracle = sm.Logit(satisfied, sm.add_constant(z)).fit(disp=False)
    found = fit(rewards, satisfied)
    assert found.curve[0] == pytest.approx(tuple(oracle.params), abs=2e-3)  # Platt's targets differ by 1/n
    assert math.tanh(found.fisher_z) == pytest.approx(pearsonr(rewards, satisfied).statistic)


def test_isotonic_is_monotone_and_interpolates():
    found = fit([0.0, 1.0, 2.0, 3.0] * 30, [0.0, 1.0, 0.0, 1.0] * 30, method="isotonic", minimum=100)
    assert found.curve == ((0.0, 0.0), (1.0, 0.5), (2.0, 0.5), (3.0, 1.0))
    assert [found.predict(r) for r in (-5, 0, 0.5, 1.5, 2.5, 9)] == [0, 0, 0.25, 0.5, 0.75, 1]


def test_nothing_is_known_beyond_what_was_seen():
    found = fit(*baseline())
    assert found.predict(1e9) == found.predict(found.highest) and found.predict(-1e9) == found.predict(found.lowest)


def test_a_separable_baseline_stays_finite():
    found = fit([0.0, 1.0] * 1000, [0.0, 1.0] * 1000)
    assert 0.99 < found.predict(1.0) < 1.0 and 0.0 < found.predict(0.0) < 0.01


@pytest.mark.parametrize(("rewards", "satisfied", "message"), [
    ([0.1, 0.2] * 999, [0.0, 1.0] * 999, "1998 feedbacks with a reward, 2000 are needed"),
    ([0.5] * 2000, [0.0, 1.0] * 1000, "the reward of all 2000"),
    ([0.0, 1.0] * 1000, [1.0] * 2000, "the satisfaction of all 2000"),
])  # fmt: skip
def test_too_little_is_refused(rewards, satisfied, message):
    with pytest.raises(InsufficientData, match=message):
        fit(rewards, satisfied)


@pytest.mark.parametrize(("rewards", "satisfied"), [
    ([math.nan, 1.0], [0.0, 1.0]), ([0.0, math.inf], [0.0, 1.0]), ([0.0, 1.0], [0.0, 1.5]), ([0.0], [0.0, 1.0]),
])  # fmt: skip
def test_nonsense_is_refused(rewards, satisfied):
    with pytest.raises(ValueError, match="must be"):
        fit(rewards, satisfied, minimum=2)
    with pytest.raises(ValueError, match="finite"):
        fit(*baseline()).predict(math.nan)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_it_comes_back_bit_for_bit(method):
    rewards, satisfied = baseline()
    signals = {"tokens": list(np.exp(rewards)), "repetition": [None if r < 2 else r for r in rewards]}
    found = fit(rewards, satisfied, signals=signals, rate=0.05, method=method)
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_ranks_have_mean_a_half_with_ties():
    values = [0.0] * 60 + [0.1, 0.2, 0.3, 0.4] * 10
    reference = Reference(tuple(sorted(values)))
    assert np.mean([reference.rank(v, None) for v in values]) == pytest.approx(0.5)
    assert reference.rank(9.0, None) == 1.0 and reference.rank(-9.0, None) == 0.0


def test_the_effect_of_length_is_taken_out():
    rng = np.random.default_rng(2)
    tokens = rng.lognormal(3.5, 0.6, 4000)
    ratio = 0.5 + 0.3 * np.log1p(tokens) + rng.normal(0, 0.05, 4000)
    rewards, satisfied = baseline(4000)
    found = fit(rewards, satisfied, signals={"tokens": list(tokens), "compression_ratio": list(ratio)})
    reference = found.signals["compression_ratio"]
    assert reference.slope == pytest.approx(0.3, abs=0.01) and len(reference.points) == 400
    longer = [reference.rank(0.5 + 0.3 * math.log1p(t) + e, math.log1p(t)) for t, e in zip(3 * tokens, rng.normal(0, 0.05, 4000), strict=True)]
    assert np.mean(longer) == pytest.approx(0.5, abs=0.02)


def test_signals_that_few_answers_have_are_left_out():
    rewards, satisfied = baseline()
    few = [0.5] * 900 + [None] * 1100
    assert set(fit(rewards, satisfied, signals={"repetition": few, "tokens": [5.0] * 2000}).signals) == {"tokens"}
