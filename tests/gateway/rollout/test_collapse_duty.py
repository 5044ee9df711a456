"""The collapse detectors of a leader, in a whole control plane: ramp, promotion, routes without a rollout."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack

import pytest

from adapters.database import Database
from adapters.errors import Conflict
from adapters.rollouts import Phase
from adapters.types import Stage
from gateway.collapse_settings import CollapseSettings
from gateway.config import RewardSettings
from gateway.control_plane.metrics import ControlMetrics
from gateway.rollout.operations import resume
from monitors.metrics_server import exposition
from monitors.rewards.settings import RewardSpec
from tests.support.collapse import NOON, Feed, collapsed, opinions, regressed
from tests.support.rolling import kinds, pass_time, serving, until
from tests.support.traffic import Traffic, begin, quick_plan
from tests.support.world import World, open_world

# What differs between the databases is tested with the stores; here each case would only take longer on the other.
pytestmark = pytest.mark.parametrize(
    "database_settings",
    ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.long])],
    indirect=True,
)

COLLAPSE = CollapseSettings(baseline=600, minimum=60, wait="1s", every="1s")
GAUGES = ("alignment_tax_ratio", "collapse_log_evalue")
REWARDS = RewardSettings(grader=(RewardSpec(name="exact"),))
SLOW = [
    {"weight": "50%", "min_units": 20, "min_duration": "1s", "max_duration": "10m", "advance": "evidence"},
]  # fmt: skip


@pytest.fixture
async def world(tmp_path, database: Database, data_dir):
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(open_world(tmp_path, database, data_dir))
        made.settings = made.settings.model_copy(update={"collapse": COLLAPSE, "rewards": REWARDS})
        made.clock.now = NOON
        yield made


@pytest.fixture
def feed(world: World) -> Feed:
    return Feed(world.database, at=world.clock.now)


def arm(world: World, name: str) -> int:
    """The assignment of an arm, as published."""
    return next(arm.assignment for arm in world.published().arms if arm.arm == name)


async def ramp(world: World, feed: Feed):
    """A rollout at 50 % that no other metric ends."""
    controller, stable, candidate = await serving(world)
    feed.give(arm(world, "stable"), opinions(1, 700))
    plan = quick_plan(step=SLOW, metric=[{"name": "error", "role": "primary", "margin": 0.001}])
    rollout = begin(world, candidate, plan)
    await until(world, controller, Phase.RAMP)
    return controller, stable, candidate, rollout


async def promoted(world: World, feed: Feed):
    controller, stable, candidate = await serving(world)
    feed.give(arm(world, "stable"), opinions(1, 700))
    rollout, traffic = begin(world, candidate), Traffic(world, numbers=iter(range(10**9, 2 * 10**9)))
    await until(world, controller, Phase.RAMP)
    await until(world, controller, Phase.PROMOTED, each=lambda: traffic.ask(range(500)))
    await pass_time(world, controller, 2)
    return controller, stable, candidate, rollout


async def test_of_several_candidates_the_one_that_fools_the_reward_is_dropped(world, feed):
    controller, stable, first = await serving(world)
    second = world.push(seed=3)
    feed.give(arm(world, "stable"), opinions(1, 700))
    metric = [{"name": "error", "role": "primary", "margin": 0.001}]
    thirds = quick_plan(step=[{**SLOW[0], "weight": "66.67%"}], metric=metric)
    rollout = begin(world, first, thirds, rivals=[second])
    await until(world, controller, Phase.RAMP)
    mine, other, control = (f"a{one.assignment}" for version in (second, first, stable)
                            for one in world.published().arms[:3] if one.version == version)  # fmt: skip
    plain = opinions(5, 400, 1.5, 1.3)
    feed.alternate(**{mine: opinions(4, 400, 3.0, 2.4), other: plain, control: opinions(6, 400, 1.5, 1.3)})
    for _ in range(12):
        await pass_time(world, controller, 1)
        if (row := world.rollouts.get(rollout.id)).state["dropped"]:
            break
    assert row.open and list(row.state["dropped"]) == [second]
    assert row.state["dropped"][second]["cause"] in ("collapse", "quality_regression")
    assert world.registry.get(second).stage is Stage.QUARANTINED


@pytest.mark.parametrize(("rows", "cause"), [(collapsed(2, 600), "collapse"), (regressed(3, 600), "quality_regression")])
async def test_a_promoted_version_that_fools_the_reward_is_taken_back(world, feed, rows, cause):
    controller, stable, candidate, rollout = await promoted(world, feed)
    names = feed.give(arm(world, "stable"), rows)       # the promoted one is the stable arm now
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=12)
    assert done.id == rollout.id and done.reason.startswith({"collapse": "reward collapse: satisfaction"}.get(cause, "quality regression"))
    assert world.route().version == stable and world.registry.get(candidate).stage is Stage.QUARANTINED
    await pass_time(world, controller, 2)
    (report,) = (world.settings.data_dir / "incidents").glob("*.json")
    body = json.loads(report.read_text())
    assert body["cause"] == cause and body["numbers"]["numbers"]["alignment_tax"] > 0.03
    text = report.with_suffix(".md").read_text()
    assert "## Reward and satisfaction" in text and any(name in text for name in names)


async def test_a_promoted_version_that_is_as_good_stays(world, feed):
    from gateway.rollout.listing import as_json

    controller, _, candidate, _rollout = await promoted(world, feed)
    feed.give(arm(world, "stable"), opinions(4, 600))
    await pass_time(world, controller, 6)
    row = world.rollouts.newest()[0]
    assert row.phase is Phase.PROMOTED and world.route().version == candidate
    assert as_json(row)["collapse"]["kind"] == "ok" and as_json(row)["collapse"]["numbers"]["feedbacks"] == 600


async def test_an_operator_at_the_same_moment_is_not_taken_for_another_leader(world, feed, monkeypatch):
    controller, _, _, _ = await promoted(world, feed)
    feed.give(arm(world, "stable"), opinions(4, 300))

    def overtaken(*args, **more):
        raise Conflict("rollout 1 of route r changed meanwhile")

    monkeypatch.setattr(world.stores.rollouts, "remember", overtaken)
    await pass_time(world, controller, 5)               # nothing is raised: the next look sees what they did
    assert controller.leads and world.rollouts.newest()[0].phase is Phase.PROMOTED


async def test_a_promoted_version_whose_texts_degenerate_is_warned_of_once(world, feed):
    controller, _, candidate, rollout = await promoted(world, feed)
    feed.repetition = 0.9                               # of 0.1 before; users and reward are as before
    feed.give(arm(world, "stable"), opinions(5, 400))
    await pass_time(world, controller, 8)
    row = world.rollouts.newest()[0]
    assert row.phase is Phase.PROMOTED and row.state["seen"]["collapse"]["kind"] == "freeze"
    assert kinds(world, rollout.id).count("warned") == 1 and world.route().version == candidate
    assert "repetition (ln e" in world.rollouts.events(rollout.id)[-1].reason


async def test_in_the_ramp_the_live_control_decides(world, feed):
    controller, stable, candidate, rollout = await ramp(world, feed)
    mine, control = (f"a{arm(world, name)}" for name in ("candidate", "stable"))
    feed.alternate(**{mine: collapsed(2, 200), control: collapsed(3, 200)})  # both drift alike
    await pass_time(world, controller, 6)
    row = world.rollouts.get(rollout.id)
    assert row.open and row.state["seen"]["collapse"]["kind"] == "ok"
    feed.alternate(**{mine: opinions(4, 400, 3.0, 2.4), control: opinions(5, 400, 1.5, 1.3)})
    done = await until(world, controller, Phase.ROLLED_BACK, ticks=12)
    numbers = world.rollouts.events(rollout.id)[-1].numbers
    assert numbers["cause"] in ("collapse", "quality_regression") and numbers["numbers"]["against"] == "live control"
    assert done.reason and [one.version for one in world.published().arms] == [stable]
    assert world.registry.get(candidate).stage is Stage.QUARANTINED


async def test_other_people_speaking_holds_the_ramp_until_an_operator_lets_it_go_on(world, feed):
    controller, _, _, rollout = await ramp(world, feed)
    silent = Traffic(world, numbers=iter(range(10**9, 2 * 10**9)))
    mine, control = (f"a{arm(world, name)}" for name in ("candidate", "stable"))
    feed.alternate(**{mine: opinions(5, 400), control: opinions(6, 400)})
    known = (10**6 + 701 + 2 * (number % 400) for number in range(5000))  # the control's users
    silent.ask(known, lambda one, user: {"assignment": arm(world, "stable")})
    await pass_time(world, controller, 6)
    row = world.rollouts.get(rollout.id)
    assert row.open and row.state["hold"]["kind"] == "inconclusive" and "times as often" in row.reason
    resume(world.rollouts, "r", actor="alice", now=world.clock.now)
    feed.give(arm(world, "candidate"), opinions(7, 10))
    await pass_time(world, controller, 6)
    assert world.rollouts.get(rollout.id).state["hold"] is None
    assert kinds(world, rollout.id).count("held") == 1


async def test_too_little_feedback_holds_nothing(world, feed):
    controller, _, _, rollout = await ramp(world, feed)
    feed.give(arm(world, "candidate"), opinions(8, 10))
    await pass_time(world, controller, 6)
    row = world.rollouts.get(rollout.id)
    assert row.state["hold"] is None and row.state["seen"]["collapse"]["why"] == "too_little"


async def test_another_controller_goes_on_where_the_first_one_died(world, feed):
    first, stable, _, _ = await promoted(world, feed)
    rows = list(collapsed(9, 600))
    feed.give(arm(world, "stable"), rows[:40])
    await pass_time(world, first, 4)
    world.clock.now += 7.0                              # it is gone; its lease runs out
    second = await world.controller("two")
    assert second.leads
    feed.give(arm(world, "stable"), rows[40:])
    await until(world, second, Phase.ROLLED_BACK, ticks=12)
    assert world.route().version == stable
    stored = world.stores.collapse.load("r", world.rollouts.newest()[0].candidate, f"after:{world.rollouts.newest()[0].id}")
    assert stored.state["detector"]["mine"]["n"] == 600


async def test_a_route_without_a_rollout_is_watched_and_shown(world, feed, tmp_path):
    metrics = ControlMetrics(tmp_path / "metrics", "test")
    stable = world.push(seed=1)
    controller = world.follower("one")
    controller.rollouts.collapse._metrics = metrics.collapse
    await controller.lease.refresh()
    await controller.lead()
    await world.serve(controller, stable)
    feed.give(arm(world, "stable"), opinions(10, 700))
    await pass_time(world, controller, 4)
    world.clock.now += 61.0                             # a baseline that was too small is counted again
    await pass_time(world, controller, 5)
    feed.give(arm(world, "stable"), collapsed(11, 500))
    await pass_time(world, controller, 5)
    stored = world.stores.collapse.load("r", stable, "alone")
    assert stored.verdict["kind"] == "collapse" and world.route().version == stable  # there is nowhere to go back to
    shown = exposition(tmp_path / "metrics")[0].decode()
    labels = f'{{route="r",version="{stable}"}}'
    values = {name: float(re.search(rf"understudy_{name}{re.escape(labels)} (\S+)", shown)[1]) for name in GAUGES}
    assert values["alignment_tax_ratio"] > 0.1 and values["collapse_log_evalue"] > 9.2
    await controller.follow()
    assert "understudy_alignment_tax_ratio{" not in exposition(tmp_path / "metrics")[0].decode()
    metrics.close()


async def test_nothing_is_watched_where_nobody_grades(world, feed):
    world.settings = world.settings.model_copy(update={"rewards": RewardSettings()})
    controller, _, _ = await serving(world)
    feed.give(arm(world, "stable"), opinions(12, 700))
    await pass_time(world, controller, 4)
    assert world.stores.collapse.load("r", world.route().version, "alone").revision == 0
