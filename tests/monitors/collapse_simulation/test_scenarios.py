from __future__ import annotations

import numpy as np
import pytest

from monitors.collapse_simulation.scenarios import (
    BASELINE,
    CHANGE,
    FEEDBACKS,
    divergence,
    gao,
    gao_lost,
    mean_satisfaction,
    scenarios,
    shift_for,
)


def stream(name: str, calm: bool = False, seed: int = 1):
    return scenarios()[name].make(np.random.default_rng([seed]), calm)


def test_a_drop_costs_what_it_says():
    assert mean_satisfaction(0.0) == pytest.approx(0.799, abs=0.005) and shift_for(0.0) == 0.0
    for drop in (0.03, 0.05, 0.1):
        assert mean_satisfaction(0.0) - mean_satisfaction(-shift_for(drop)) == pytest.approx(drop)


@pytest.mark.parametrize(("name", "satisfaction", "reward"), [
    ("flat", -0.1, 0.0), ("rising", -0.1, 0.3), ("slight", -0.05, 0.0), ("stationary", 0.0, 0.0),
    ("ordinary", -0.1, -0.478), ("inflated", 0.0, 1.0), ("diurnal-flat", -0.1, 0.0), ("users-flat", -0.1, 0.0),
])  # fmt: skip
def test_streams_do_what_their_names_say(name, satisfaction, reward):
    made, calm = stream(name), stream(name, calm=True)
    assert len(made.rewards) == FEEDBACKS and len(calm.rewards) == BASELINE
    for values, moved, noise in ((made.satisfactions, satisfaction, 0.03), (made.rewards, reward, 0.07)):
        assert values[CHANGE:].mean() - values[:CHANGE].mean() == pytest.approx(moved, abs=noise)
    assert calm.satisfactions.mean() == pytest.approx(mean_satisfaction(0.0), abs=0.03)


def test_over_optimisation_rises_and_falls_as_in_the_paper():
    d = np.linspace(0.01, 12, 2000)
    gold = gao(d)
    assert d[gold.argmax()] == pytest.approx(3.0, abs=0.02) and gold[-1] == pytest.approx(-shift_for(0.1))
    change = scenarios()["gao"].change
    assert gao_lost(change) == pytest.approx(0.0, abs=1e-3) and gao_lost(FEEDBACKS - 1) == pytest.approx(0.1)


def test_the_same_users_are_in_the_baseline():
    made, calm = stream("users"), stream("users", calm=True)
    other = stream("users", seed=2)
    assert len(made.rewards) == FEEDBACKS and len(calm.rewards) == BASELINE
    assert made.rewards[0] != other.rewards[0]


def test_who_speaks_and_who_is_the_control():
    doubled = stream("doubled").answers
    assert doubled is not None and doubled[:CHANGE].mean() == pytest.approx(2 * doubled[CHANGE:].mean(), rel=0.1)
    control = stream("control")
    assert control.control is not None and control.control.mean() == pytest.approx(0.5, abs=0.03)
    late = np.arange(FEEDBACKS) >= CHANGE
    gap = control.satisfactions[late & ~control.control].mean() - control.satisfactions[late & control.control].mean()
    assert gap == pytest.approx(-0.1, abs=0.04)


def test_divergence_is_known_for_steps_only_and_grows_with_them():
    known = {name: divergence(scenario) for name, scenario in scenarios().items()}
    assert known["slight"] < known["flat"] < known["rising"]
    assert known["flat"] == pytest.approx(0.0297, abs=0.003) and known["ordinary"] is None and known["gao"] is None
