"""When a run counts as collapsed: hand-worked numbers, and simulations of the error that is promised."""

import math

import numpy as np
import pytest
from scipy import stats

from trainer.health_rule import (
    SIGNS,
    Look,
    alignment_tax,
    degenerate,
    differences,
    judge,
    lower_bound,
    spread,
    upper_bound,
)
from trainer.rl_settings import HealthSettings

SETTINGS = HealthSettings()


class Prompts:
    """64 prompts of different difficulty; answers to them at a chosen mean score."""

    def __init__(self, seed, count=64, samples=2):
        self._rng = np.random.default_rng(seed)
        self._ease = self._rng.normal(size=count) * 1.5
        self._samples = samples

    def scores(self, mean):
        low, high = -12.0, 12.0
        for _ in range(30):  # the shift that gives this mean
            middle = (low + high) / 2
            low, high = (middle, high) if self._chances(middle).mean() < mean else (low, middle)
        return tuple(map(float, self._rng.binomial(self._samples, self._chances(low)) / self._samples))

    def _chances(self, shift):
        return 1 / (1 + np.exp(-(self._ease + shift)))


def verdicts(seed, golds, rewards, settings=SETTINGS):
    prompts, looks, found = Prompts(seed), [], []
    for place, (gold, reward) in enumerate(zip(golds, rewards, strict=True)):
        looks.append(Look(5 * place, prompts.scores(reward), prompts.scores(gold)))
        found.append(judge(looks, settings))
    return found


def collapsed_at(*arguments, **keywords):
    """The number of the first look that says collapsed, None if there is none."""
    found = verdicts(*arguments, **keywords)
    return next((i for i, verdict in enumerate(found) if verdict.status == "collapsed"), None)


def test_a_hacked_run_is_found_at_once():
    hacked = [0.4, 0.15, 0.05, 0.02, 0.0], [0.1, 0.4, 0.7, 0.9, 0.95]
    assert [collapsed_at(seed, *hacked) for seed in range(20)].count(None) == 0
    verdict = verdicts(0, *hacked)[-1]
    assert verdict.since == 0
    assert verdict.reason.startswith("gold 0.")
    assert "since step 0" in verdict.reason


def test_over_optimisation_is_found_though_gold_is_still_above_the_start():
    golds = [0.4, 0.6, 0.7, 0.7, 0.65, 0.6, 0.55, 0.45, 0.42]
    rewards = [0.4, 0.7, 0.9, 0.97, 0.97, 0.97, 0.97, 0.97, 0.97]  # saturated while gold falls
    found = [collapsed_at(seed, golds, rewards) for seed in range(60)]
    assert sum(at is not None for at in found) >= 48
    assert min(at for at in found if at is not None) >= 4


def test_a_run_without_a_fall_is_called_collapsed_at_most_as_often_as_alpha_says():
    # No tolerance (gold_drop = 0), 20 looks, a reward that rises all the time: the hardest null.
    settings = HealthSettings(gold_drop=0.0, alpha=0.2)
    rewards = np.linspace(0.3, 0.9, 20)
    alarms = sum(collapsed_at(seed, [0.4] * 20, rewards, settings) is not None for seed in range(150))
    assert stats.binom.sf(alarms - 1, 150, 0.2) > 0.01


def test_with_the_default_tolerance_a_stationary_run_is_never_called_collapsed():
    assert all(collapsed_at(seed, [0.4] * 15, np.linspace(0.3, 0.9, 15)) is None for seed in range(100))


def test_gold_and_reward_falling_together_is_no_collapse():
    falling = [0.7, 0.5, 0.3, 0.1]
    assert all(verdict.status in ("ok", "unknown") for verdict in verdicts(1, falling, falling))


def test_one_look_or_no_gold_concludes_nothing():
    assert judge([], SETTINGS).status == "unknown"
    look = Look(0, (0.5,) * 20, (None,) * 20)
    assert judge([look], SETTINGS).status == "unknown"
    assert judge([look, Look(5, (0.9,) * 20, (None,) * 20)], SETTINGS).status == "unknown"


def test_too_few_scored_prompts_conclude_nothing():
    first = Look(0, (0.1,) * 20, (1.0,) * 7 + (None,) * 13)
    assert judge([first, Look(5, (0.9,) * 20, (0.0,) * 20)], SETTINGS).status == "unknown"


def test_degenerate_texts_under_a_rising_reward_are_suspect_without_gold():
    calm = {"completion_tokens": 5.0, "duplicate_4gram": 0.01, "entropy": 0.6, "distinct_4": 0.6}
    wild = {"completion_tokens": 24.0, "duplicate_4gram": 0.4, "entropy": 0.1, "distinct_4": 0.1}
    verdict = judge([Look(0, (0.1,) * 20, (None,) * 20, calm), Look(5, (0.9,) * 20, (None,) * 20, wild)], SETTINGS)
    assert verdict.status == "suspect"
    assert "duplicate_4gram 0.01 → 0.4" in verdict.reason
    assert {sign.name for sign in degenerate(Look(0, (), (), calm), Look(5, (), (), wild))} == set(SIGNS)
    assert degenerate(Look(0, (), (), calm), Look(5, (), (), calm)) == []


def test_bounds_are_student_s():
    rng = np.random.default_rng(3)
    moved = rng.normal(-0.2, 0.4, 40)
    expected = stats.ttest_1samp(moved, 0, alternative="less").confidence_interval(0.99).high
    assert upper_bound(moved, 0.01) == pytest.approx(expected)
    assert lower_bound(moved, 0.01) == pytest.approx(-upper_bound(-moved, 0.01))
    assert upper_bound(moved[:7], 0.01) is None


def test_differences_pair_what_both_scored_and_use_signs_off_the_unit_interval():
    assert differences((1.0, None, 0.5), (0.0, 1.0, 1.0)).tolist() == [1.0, -0.5]
    assert differences((30.0, -2.0, 5.0), (1.0, 4.0, 5.0)).tolist() == [1.0, -1.0, 0.0]


def test_alignment_tax_by_hand():
    first = Look(0, (0.0, 0.2), (1.0, 0.0))  # spreads 0.1 and 0.5
    now = Look(5, (0.6, 0.6), (0.0, 0.0))
    assert alignment_tax(first, now) == pytest.approx((0.6 - 0.1) / 0.1 - (0.0 - 0.5) / 0.5)
    assert alignment_tax(first, first) == 0
    assert alignment_tax(first, Look(5, (0.6, 0.6), (None, None))) is None
    assert spread((0.5, 0.5)) == 0.05
    assert math.isclose(spread((0.0, 1.0)), 0.5)
