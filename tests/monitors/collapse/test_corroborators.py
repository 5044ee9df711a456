"""Signs of collapse beside satisfaction, each on its own."""

from __future__ import annotations

import json
import math
import random

import pytest

from monitors.collapse.calibration import Calibration, fit
from monitors.collapse.corroborators import Corroborators

A = 1e4


def text(rng: random.Random, *, length: float = 1.0, filler: float = 0.0) -> dict[str, float]:
    """Statistics of an answer: `length` times as long as usual; `filler`: share of it that says nothing new."""
    tokens = length * math.exp(rng.gauss(4.0, 0.5))
    noise = rng.gauss(0, 1)
    return {
        "tokens": tokens, "bytes_per_token": (4.5 - 0.3 * math.log1p(tokens) + 0.2 * noise) * (1 - 0.5 * filler),
        "compression_ratio": (0.6 + 0.2 * math.log1p(tokens) - 0.1 * noise) * (1 + filler),
        "duplicate_4gram": max(0.0, rng.gauss(0.02, 0.03) + 0.3 * filler), "repetition": rng.betavariate(2, 8),
    }  # fmt: skip


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rng = random.Random(1)
    rewards = [rng.gauss(0, 1) for _ in range(2000)]
    satisfied = [float(rng.random() < 1 / (1 + math.exp(-1.6 - 0.9 * r))) for r in rewards]
    texts = [text(rng) for _ in range(2000)]
    signals = {name: [one[name] for one in texts] for name in texts[0]}
    return fit(rewards, satisfied, signals=signals, rate=0.05, departures=0.1)


def alarms(calibration: Calibration, rng: random.Random, count: int = 600, **change: float) -> set[str]:
    """Which sign reaches its threshold within so many answers."""
    signs, seen = Corroborators(calibration, A), set()
    for _ in range(count):
        signs.text(text(rng, **change))
        seen |= {name for name, value in signs.values.items() if value >= A}
    return seen


def test_nothing_changed_nothing_said(calibration):
    assert [alarms(calibration, random.Random(seed), 2000) for seed in range(10)] == [set()] * 10


def test_padding_is_longer_and_says_less(calibration):
    assert {"padding", "compression_ratio", "duplicate_4gram"} <= alarms(calibration, random.Random(3), length=2, filler=0.5)


def test_honest_length_is_none_of_these(calibration):
    """Twice as long, and as dense as an answer of that length is: only the length itself has moved."""
    for seed in range(5):
        assert alarms(calibration, random.Random(seed), 2000, length=2.0) == set()


def test_repetition_across_answers(calibration):
    rng, signs = random.Random(4), Corroborators(calibration, A)
    for _ in range(300):
        signs.text({"repetition": rng.betavariate(6, 4)})
    assert signs.values["repetition"] >= A and signs.value >= A  # the mean of six: one of them says enough


def test_a_reward_that_has_lost_its_meaning(calibration):
    for related, found in ((True, False), (False, True)):
        rng, signs = random.Random(5), Corroborators(calibration, A)
        for _ in range(4000):
            r = rng.gauss(0, 1)
            signs.pair(r, float(rng.random() < 1 / (1 + math.exp(-1.6 - 0.9 * r * related))))
        assert (signs.values["correlation"] >= A) is found


@pytest.mark.parametrize(("rate", "found"), [(0.05, False), (0.11, True), (0.02, True)])
def test_people_who_speak_more_or_less(calibration, rate, found):
    rng, signs = random.Random(6), Corroborators(calibration, A)
    for _ in range(3000):
        signs.traffic(20, sum(rng.random() < rate for _ in range(20)))
    assert (signs.values["rate"] >= A) is found


@pytest.mark.parametrize(("rate", "found"), [(0.04, False), (0.03, False), (0.09, True)])
def test_people_who_turn_away_without_a_word(rate, found):
    calm = fit([0.0, 1.0] * 1000, [0.0, 1.0, 1.0, 0.0] * 500, departures=0.04)
    rng, signs = random.Random(8), Corroborators(calm, A)
    for _ in range(1500):
        signs.traffic(20, 1, sum(rng.random() < rate for _ in range(20)))
    assert (signs.values["departures"] >= A) is found


def test_a_baseline_without_departures_takes_a_few_for_none():
    calm = fit([0.0, 1.0] * 1000, [0.0, 1.0, 1.0, 0.0] * 500, departures=0.0)
    few, many = Corroborators(calm, A), Corroborators(calm, A)
    for number in range(2000):
        few.traffic(10, 1, number % 500 == 0)
        many.traffic(10, 1, 1)
    assert few.values["departures"] < A <= many.values["departures"]


def test_what_is_missing_or_not_finite_says_nothing(calibration):
    signs = Corroborators(calibration, A)
    for _ in range(100):
        signs.text({"repetition": math.nan, "compression_ratio": math.inf, "unknown": 1.0})
        signs.text({})
    for _ in range(100):
        signs.pair(0.0, 1.0)  # constant: no correlation
    assert signs.value == 0.0


def test_without_texts_and_rate_only_the_correlation_is_left():
    bare = fit([0.0, 1.0] * 1000, [0.0, 1.0, 1.0, 0.0] * 500)
    assert set(Corroborators(bare, A).values) == {"correlation"}


def test_it_goes_on_bit_for_bit(calibration):
    rng = random.Random(7)
    whole, part = Corroborators(calibration, A), Corroborators(calibration, A)
    for _ in range(200):
        one, r, s = text(rng, filler=0.2), rng.gauss(0, 1), float(rng.random() < 0.7)
        for signs in (whole, part):
            signs.text(one)
            signs.pair(r, s)
            signs.traffic(7, 1, 1)
        state, part = json.loads(json.dumps(part.state())), Corroborators(calibration, A)
        part.restore(state)
    assert part.state() == whole.state() and part.values == whole.values
