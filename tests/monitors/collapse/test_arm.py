from __future__ import annotations

import math
import random

import pytest

from monitors.collapse.arm import Arm


def test_the_rate_is_known_after_six_steps_of_fifty_and_forgets():
    arm = Arm(300)
    for _ in range(299):
        arm.traffic(10, 1)
    assert arm.rate is None and arm.moved(0.1) is None
    arm.traffic(10, 1)
    assert arm.rate == pytest.approx(0.1) and arm.moved(0.1) == 1.0
    for _ in range(300):
        arm.traffic(5, 1)
    assert arm.rate == pytest.approx(0.2) and arm.moved(0.1) == pytest.approx(2.0)


def test_moves_within_the_noise_are_none():
    moved = 0
    for seed in range(50):
        rng, arm = random.Random(seed), Arm(300)
        for _ in range(20_000):
            arm.traffic(1, int(rng.random() < 0.05))
        moved += abs((arm.moved(0.05) or 1.0) - 1.0) > 0.2
    assert moved <= 2


def test_many_answers_without_feedback_are_counted_with_the_next():
    arm = Arm(300)
    arm.traffic(1000, 0)
    arm.traffic(0, 299)
    assert arm.rate is None and math.isinf(Arm(300).rate_error)
    arm.traffic(10, 50)
    assert arm.rate == 349 / 1010
