"""Simulated rollouts: the plan's own rules decide, the same seed gives the same, harm is found and equals are promoted."""

from __future__ import annotations

import pytest

from gateway.rollout.plan import Plan, default_plan
from gateway.rollout.simulate import duration_of, reachable, simulate
from gateway.rollout.simulated_traffic import Traffic

FAST = Plan.model_validate(
    {
        "name": "fast",
        "step": [
            {"weight": "5%", "min_units": 50, "min_duration": "60s", "max_duration": "1h"},
            {"weight": "50%", "min_units": 500, "min_duration": "5m", "max_duration": "6h", "advance": "evidence"},
        ],
        "metric": [{"name": "error", "role": "primary"}, {"name": "slow_ttft"}, {"name": "thumbs_down"}],
    }
)
TRAFFIC = Traffic(rps=20, units=4000)


def test_an_equal_version_is_promoted():
    outcomes = simulate(FAST, TRAFFIC, runs=12, seed=1)
    assert [o.decision for o in outcomes].count("promote") >= 11
    assert all(o.seconds >= 360 for o in outcomes)
    assert all(o.candidate_requests > 60 * 20 * 0.05 for o in outcomes)


def test_a_harmful_version_is_rolled_back_long_before_a_poll():
    outcomes = simulate(FAST, Traffic(rps=20, units=4000, relative_risk=10), runs=12, seed=2)
    assert {(o.decision, o.cause) for o in outcomes} == {("rollback", "error")}
    assert sorted(o.seconds for o in outcomes)[6] < 130
    assert all(o.bad_requests == pytest.approx(o.candidate_requests * 0.1) for o in outcomes)


def test_the_same_seed_gives_the_same_and_another_does_not():
    one, two, other = (simulate(FAST, TRAFFIC, runs=2, seed=seed) for seed in (7, 7, 8))
    assert one == two != other


def test_progress_is_told():
    steps = []
    simulate(FAST, TRAFFIC, runs=3, seed=1, progress=lambda: steps.append(1))
    assert len(steps) == 3


def test_in_the_shadow_nobody_is_hurt():
    traffic = Traffic(rps=20, units=4000, relative_risk=20)
    outcomes = simulate(default_plan(), traffic, runs=5, seed=3)
    assert {(o.decision, o.step, o.candidate_requests) for o in outcomes} == {("rollback", 0, 0.0)}
    worse = simulate(default_plan(), Traffic(reward_change=-0.6), runs=3, seed=3)
    assert {(o.decision, o.cause, o.step) for o in worse} == {("rollback", "reward", 0)}


def test_fewer_satisfied_users_are_noticed():
    traffic = Traffic(rps=40, units=4000, satisfaction_change=-0.4, feedback_rate=0.2)
    outcomes = simulate(FAST, traffic, runs=5, seed=4)
    assert {o.decision for o in outcomes} == {"rollback"} and {o.cause for o in outcomes} == {"thumbs_down"}


def test_a_step_without_enough_traffic_ends_in_time_and_is_announced():
    idle = Traffic(rps=0.01, units=4000)
    outcomes = simulate(FAST, idle, runs=3, seed=5)
    assert {(o.decision, o.cause) for o in outcomes} == {("inconclusive", "time")}
    assert all(o.seconds == pytest.approx(3600) for o in outcomes)
    warnings = reachable(FAST, idle)
    assert any("step 1 needs 50 units per arm" in line for line in warnings)
    assert any("error needs 1225 observations per arm for its margin" in line for line in warnings)
    assert reachable(default_plan(), Traffic()) == []
    quiet = reachable(default_plan(), Traffic(feedback_rate=0.0001))
    assert len(quiet) == 1 and "satisfaction needs 4947 observations per arm" in quiet[0]


def test_the_least_time_of_a_plan():
    assert duration_of(FAST) == 360
    assert duration_of(default_plan()) == 600 + 600 + 1800 + 3600 + 7200
