"""The benchmarks of the control path run, count what happened, and notice a loss."""

from __future__ import annotations

import argparse

import pytest

from adapters.errors import DatabaseError
from adapters.response_store import ResponseStore
from deploy.bench import control, events, lora_engine, serial
from deploy.bench.control_site import running
from gateway.data_plane.events import EventWriter
from tests.support.waiting import eventually


def test_records_are_counted_in_the_database():
    # so long that a machine that stops for a moment does not miss all of it
    options = argparse.Namespace(rate=2000.0, workers=2, seconds=3.0, rows=100)
    found = events.measure("sqlite", options)
    assert found["sent"] > 100 and found["stored"] == found["sent"] and found["lost"] == found["dropped"] == 0
    assert 50 < found["bytes_per_record"] < 5000
    assert "sqlite" in events.table({"sqlite": found})


async def test_what_was_dropped_is_lost(database, monkeypatch: pytest.MonkeyPatch):
    def away(*_given):
        raise DatabaseError("away")

    monkeypatch.setattr(ResponseStore, "append", away)
    dropped: list[int] = []
    writer = EventWriter(ResponseStore(database), lambda kind, count: dropped.append(count), capacity=10)
    for _ in range(20):
        found = await events.produce(events.Job("x", "", 1000.0, 0.2, 0), writer)
        if found["sent"]:  # else the machine slept through that time
            break
    writer.close(0.1)
    assert found["sent"] > 0
    await eventually(lambda: sum(dropped) >= found["sent"])  # close does not wait for a thread that comes late
    assert sum(dropped) == found["sent"] and found["backlog"] <= 10


@pytest.mark.slow
@pytest.mark.long
def test_a_change_reaches_every_worker_and_idling_is_measured(tmp_path):
    with running(tmp_path, "sqlite", 2) as site:
        changes = control.measure_changes(site, 2, 2)
        idle = control.measure_idle(site, 0.5)
    assert (changes["changes"], changes["failed_requests"]) == (2, 0)
    assert 0.1 < changes["median"] <= changes["longest"] < control.LONGEST  # not before the announced instant
    assert 0 <= changes["spread_p99"] <= changes["longest"]
    assert idle["worker_mb"] > 20 and idle["controller"] >= 0
    assert "sqlite" in control.table({"sqlite": {"changes": changes, "idle": idle}})


def test_models_of_the_stand_in_engine_differ():
    first, second = (lora_engine.logprobs(model, [1, 2]) for model in ("base", "r@aaaaaaaaaaaa"))
    assert len(first) == 20 and first != second and first == lora_engine.logprobs("base", [1, 2])


async def test_a_worker_s_part_of_a_routing_state():
    found = serial.snapshot(3)
    assert len(found.routes) == 3 and found.routes[0].arms[-1].high == 1.0
    small, large = [await serial.in_worker(routes) for routes in (1, 50)]
    assert large["bytes"] > 10 * small["bytes"] > 0
    assert large["compile"] > 0 and large["read"] > 0
