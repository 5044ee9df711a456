"""The report of a rollback. What others say about it: test_aftercare, test_collapse_report, test_rivals."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from adapters import tables
from adapters.rollouts import Phase
from gateway.rollout.operations import roll_back
from tests.support.rolling import pass_time, serving, until
from tests.support.traffic import Traffic, begin, failing
from tests.support.world import World


@pytest.mark.parametrize("cause", ["alert", "operator", "error"])
async def test_every_report_names_its_cause_and_answers_to_look_at(world: World, traffic: Traffic, cause: str):
    """Bad ones where any were seen, else the newest of the version that was taken back."""
    controller, _stable, candidate = await serving(world)
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    traffic.ask(range(200), failing("candidate") if cause == "error" else lambda arm, user: {})
    if cause != "error":
        roll_back(world.rollouts, "r", cause=cause, actor="somebody", now=world.clock.now)
    await pass_time(world, controller, 3)
    (path,) = (world.settings.data_dir / "incidents").glob("*.json")
    report, text = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert report["cause"] == cause and f"(cause: {cause}; by " in text
    samples = report["samples"]
    assert 0 < len(samples) <= 10 and {one["metric"] for one in samples} == {"error" if cause == "error" else "answer"}
    assert all(f"`{one['response_id']}`" in text for one in samples)
    rows, arms = tables.responses.c, tables.assignments.c
    whose = select(arms.version).join(tables.responses, arms.id == rows.assignment)
    with world.database.read() as connection:
        found = connection.scalars(whose.where(rows.response_id.in_([one["response_id"] for one in samples]))).all()
    assert len(found) == len(samples) and set(found) == {candidate}
    if cause == "alert":
        assert "runbook" in text
    assert f"understudy adapter release {candidate}" in text
