"""What the controller exports about rollouts."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.rollouts import Phase
from gateway.control_plane.controller import Controller
from gateway.control_plane.lease import Lease
from gateway.control_plane.metrics import ControlMetrics
from gateway.control_plane.publish import Base
from gateway.rollout.operations import roll_back
from monitors.metrics_server import exposition
from tests.support.rolling import pass_time, until
from tests.support.traffic import Traffic, begin, failing, quick_plan
from tests.support.world import World


@pytest.fixture
async def measured(world: World):
    """(controller with metrics, stable, candidate)."""
    stable, candidate = world.push(seed=1), world.push(seed=2)
    metrics = ControlMetrics(world.settings.data_dir / "metrics", "test")
    lease = Lease(world.fleet, "one", world.clock)
    controller = Controller(
        world.settings, world.stores, Base(world.base.version, "base"), lease, metrics=metrics, clock=world.clock,
        monotonic=world.clock,
    )  # fmt: skip
    world.controllers.append(controller)
    await lease.refresh()
    await controller.lead()
    await world.serve(controller, stable)
    yield controller, stable, candidate
    metrics.close()


def values(world: World, name: str) -> dict[tuple[str, ...], float]:
    body, _ = exposition(world.settings.data_dir / "metrics", "")
    return {
        tuple(value for key, value in sorted(sample.labels.items()) if key not in ("route", "version")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == f"understudy_{name}"
    }


async def test_an_open_rollout_shows_where_it_is_and_why(world: World, traffic: Traffic, measured):
    controller, _stable, candidate = measured
    begin(world, candidate, quick_plan(step=[{"weight": "20%", "min_duration": "1h", "advance": "evidence"}]))
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(900), lambda arm, user: failing("stable")(arm, user) if user % 30 == 0 else {})
    await pass_time(world, controller, 4)
    assert values(world, "rollout_weight_ratio") == {(): 0.2}
    phases = values(world, "rollout_phase")
    assert phases[("ramp",)] == 1.0 and phases[("held",)] == 0.0 and phases[("preparing",)] == 0.0
    assert values(world, "rollout_log_evalue")[("error",)] < 0.0
    effects = values(world, "rollout_effect")
    assert effects[("lower", "error")] < effects[("estimate", "error")] < effects[("upper", "error")]
    assert () in values(world, "rollout_ratio_mismatch_log_evalue")


@pytest.mark.parametrize("by", ["evidence", "operator", "alert"])
async def test_rollbacks_are_counted_by_cause(world: World, traffic: Traffic, measured, by):
    controller, _stable, candidate = measured
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    if by != "evidence":
        roll_back(world.rollouts, "r", cause=by, actor="alice", now=world.clock.now)
    else:
        traffic.ask(range(100), failing("candidate"))
    await pass_time(world, controller, 2)
    counted = values(world, "rollbacks_total")
    assert {cause for cause, count in counted.items() if count} == {("error" if by == "evidence" else by,)}
    assert counted["breaker",] == 0.0  # there before it happens, or increase() would miss the first one
    assert counted["operator",] + counted["alert",] + counted["error",] == 1.0
    assert values(world, "rollout_weight_ratio") == {(): 0.0}
    assert values(world, "rollout_phase")[("rolled_back",)] == 1.0


async def test_one_of_several_that_an_operator_drops_is_counted(world: World, measured):
    controller, _stable, candidate = measured
    other = world.push(seed=3)
    begin(world, candidate, rivals=[other])
    await until(world, controller, Phase.RAMP)
    roll_back(world.rollouts, "r", other, actor="alice", now=world.clock.now)
    await pass_time(world, controller, 2)
    assert {cause for cause, count in values(world, "rollbacks_total").items() if count} == {("operator",)}
    roll_back(world.rollouts, "r", cause="alert", actor="alertmanager", now=world.clock.now)
    await pass_time(world, controller, 2)
    counted = values(world, "rollbacks_total")
    assert (counted["operator",], counted["alert",]) == (1.0, 1.0)


async def test_the_series_go_when_it_is_no_longer_looked_after(world: World, measured):
    controller, _stable, candidate = measured
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    await controller.follow()
    assert values(world, "rollout_weight_ratio") == {}
