"""The simulated users: what they do adds up to what was stated, and a ramp with returning users misleads nobody."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from adapters.errors import ConfigError
from gateway.rollout.plan import default_plan
from gateway.rollout.simulated_traffic import Population, Traffic
from monitors.stats.attribution import AttributionTest

METRICS = default_plan().metrics


def test_what_was_stated_is_what_happens():
    traffic = Traffic(rps=50, units=3000, bad_rate=0.02, relative_risk=3, satisfaction_change=-0.2, reward_change=-0.5)
    people = Population(traffic, METRICS, np.random.default_rng(1))
    people.begin_step(0.3)
    people.advance(0.0, 2000.0)
    sums = people.sums()
    candidate, stable = sums["error"]
    assert candidate.d + stable.d == pytest.approx(100_000, rel=0.02)
    assert candidate.d / (candidate.d + stable.d) == pytest.approx(0.3, abs=0.03)
    assert (candidate.m / candidate.d, stable.m / stable.d) == pytest.approx((0.06, 0.02), rel=0.1)
    good = [arm.m / arm.d for arm in sums["satisfaction"]]
    assert good == pytest.approx([0.6, 0.8], abs=0.04)
    reward = [arm.m / arm.d for arm in sums["reward"]]
    assert reward[0] - reward[1] == pytest.approx(-0.1, abs=0.02)
    assert people.units() == (people.candidates, 3000 - people.candidates)
    assert candidate.units + stable.units == 3000


def test_a_ramp_only_widens_and_the_sums_begin_anew():
    people = Population(Traffic(units=5000), METRICS, np.random.default_rng(2))
    people.begin_step(0.05)
    first = people.candidates
    people.advance(0.0, 100.0)
    people.begin_step(0.25)
    assert people.candidates > first and sum(people.units()) == 0


def test_a_unit_has_one_first_event():
    people = Population(Traffic(rps=100, units=50, bad_rate=0.5), METRICS, np.random.default_rng(3))
    people.begin_step(0.5)
    events = [e for start in range(5) for e in people.advance(start * 10.0, 10.0)]
    assert [e.at for e in events] == sorted(e.at for e in events)
    errors = [e for e in events if e.metric == "error"]
    assert len(errors) == 50
    assert sum(e.candidate for e in errors) == people.candidates


@pytest.mark.parametrize("alpha", [0.05])
def test_a_ramp_with_returning_units_keeps_its_false_alarm_rate(alpha: float):
    """Every unit comes back about ten times in each step, and its first bad event counts where it then was."""
    rng, runs, alarms = np.random.default_rng(4), 300, 0
    traffic = Traffic(rps=20, units=1000, bad_rate=0.03)
    errors = [metric for metric in METRICS if metric.name == "error"]
    for _ in range(runs):
        people, test = Population(traffic, errors, rng), AttributionTest(alpha=alpha)
        for step, share in enumerate((0.01, 0.05, 0.25, 0.5)):
            people.begin_step(share)
            for part in range(2):
                for event in people.advance(step * 500.0 + part * 250.0, 250.0):
                    test.observe(event.candidate, share)
        assert test.events > 500
        alarms += test.rejected
    print(f"{alarms} of {runs} = {alarms / runs:.1%}, at most {alpha:.3g} allowed")  # shown by pytest -rP
    assert binomtest(alarms, runs, alpha, alternative="greater").pvalue > 0.01, alarms / runs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rps": 0}, "above 0"),
        ({"rps": float("nan")}, "above 0"),
        ({"units": 1}, "at least 2 units"),
        ({"metric": "satisfaction"}, "no bad event of an answer"),
        ({"metric": "thumbs_down"}, "no bad event of an answer"),
        ({"bad_rate": -0.1}, "bad rate would be -0.1"),
        ({"bad_rate": 0.2, "relative_risk": 10}, "candidate's bad rate would be 2"),
        ({"satisfaction_change": 0.5}, "candidate's satisfaction would be 1.3"),
        ({"relative_risk": -1, "bad_rate": 0}, "must not be negative"),
        ({"reward_sd": 0}, "standard deviation above 0"),
    ],
)
def test_traffic_that_cannot_be_is_refused(values: dict, words: str):
    with pytest.raises(ConfigError, match=r".") as refused:
        Traffic(**values).check()
    assert words in str(refused.value)
