from __future__ import annotations

import json
import random

from monitors.collapse.window import Window


def test_the_mean_is_that_of_the_last_ones():
    window, values = Window(7), []
    assert (window.mean, len(window)) == (0.0, 0)
    for value in (random.Random(1).random() for _ in range(50)):
        values.append(value)
        window.add(value)
        assert abs(window.mean - sum(values[-7:]) / len(values[-7:])) < 1e-12


def test_it_goes_on_bit_for_bit():
    rng = random.Random(2)
    whole, part = Window(5), Window(5)
    for _ in range(100):
        value = rng.random()
        whole.add(value)
        part.add(value)
        part = Window(5, *json.loads(json.dumps(part.state())))
        assert part.mean == whole.mean and part.state() == whole.state()
