"""Rows of rollouts: begun once per route, swapped by generation, each change with its event. Both databases."""

from __future__ import annotations

import threading

import pytest

from adapters import tables
from adapters.errors import Conflict, NotFound
from adapters.gates import GateVerdict, record_gate
from adapters.rollout_store import BREAKER, RolloutStore
from adapters.rollouts import ENDED, Phase, RolloutEvent
from adapters.routes import serve_in
from adapters.types import Stage

BASE = "base@000000000000"


@pytest.fixture
def store(database) -> RolloutStore:
    return RolloutStore(database)


@pytest.fixture
def cleared(database, push):
    """Push a version that has passed its gate; its name."""

    def make(seed: int) -> str:
        name = push(seed=seed).name
        with database.begin() as connection:
            record_gate(connection, name, GateVerdict.PASSED, actor="tests")
        return name

    return make


def start(store: RolloutStore, version: str, now: float = 100.0):
    return store.start("support", version, BASE, {"name": "p"}, actor="alice", now=now)


def test_it_begins_once(store, cleared, routes):
    first, second = cleared(1), cleared(2)
    row = start(store, first)
    assert (row.phase, row.stable, row.weight, row.generation, row.open) == (Phase.PREPARING, BASE, 0.0, 0, True)
    assert store.get(row.id) == row == store.open_on("support")
    (event,) = store.events(row.id)
    assert (event.kind, event.actor, event.at) == ("started", "alice", 100.0)
    with pytest.raises(Conflict, match=f"rollout {row.id} of {first} open"):
        start(store, second)
    with pytest.raises(Conflict, match="rollout"):
        routes.delete("support")
    with pytest.raises(NotFound, match="no open rollout"):
        store.open_on("other")
    with pytest.raises(NotFound, match="rollout 99"):
        store.get(99)


def test_its_evidence_begins_where_the_records_end(store, cleared, database):
    from tests.support.records import Records

    records = Records(database, route="other")
    for unit in range(3):
        records.answer(records.stable, unit)
    assert start(store, cleared(1)).state == {"cursor": [3, 0]}


def test_two_that_begin_at_once(store, cleared):
    first, second = cleared(1), cleared(2)
    results: list[str] = []

    def race(version: str) -> None:
        try:
            start(store, version)
            results.append("begun")
        except Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=race, args=(version,)) for version in (first, second) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["begun", "conflict", "conflict", "conflict"] and len(store.newest()) == 1


def test_a_change_needs_the_generation_it_saw(store, cleared):
    row = start(store, cleared(1))
    moved = store.change(row, RolloutEvent("moved", "on", numbers={"x": 1}), phase="ramp", step=1, weight=0.05)
    assert (moved.phase, moved.weight, moved.generation, moved.reason) == (Phase.RAMP, 0.05, 1, "on")
    with pytest.raises(Conflict, match=r"generation 1, expected 0; now ramp at 0.05: on"):
        store.change(row, RolloutEvent("moved", "late"), weight=0.1)
    with pytest.raises(Conflict):
        store.remember(row, {"credited": 1.0})
    remembered = store.remember(moved, {"credited": 1.0})
    assert remembered.generation == 1 and remembered.state == {"credited": 1.0}
    assert [event.kind for event in store.events(row.id)] == ["started", "moved"]
    assert store.events(row.id, after=store.events(row.id)[0].id)[0].numbers == {"x": 1}


def test_a_fence_that_fell_changes_nothing(store, cleared, database):
    from adapters.fleet_store import FleetStore

    row = start(store, cleared(1))
    epoch = FleetStore(database).acquire_lease("controller", "me", 10.0, 100.0)
    changed = store.change(row, RolloutEvent("moved", "on"), ("controller", epoch), step=1)
    for write in (
        lambda: store.change(changed, RolloutEvent("moved", "on"), ("controller", epoch + 1), step=2),
        lambda: store.remember(changed, {}, ("controller", epoch + 1)),
    ):
        with pytest.raises(Conflict, match="another process leads"):
            write()
    assert store.get(row.id) == changed


def test_what_has_ended_is_looked_after_for_a_while(store, cleared):
    row = start(store, cleared(1))
    assert [r.id for r in store.active(1000.0)] == [row.id]
    store.change(row, RolloutEvent("aborted", "no slot"), phase=Phase.ABORTED.value, ended_at=500.0)
    assert store.active(501.0) == [] and store.active(500.0)[0].phase in ENDED
    again = start(store, cleared(2), now=600.0)
    assert [r.id for r in store.newest("support")] == [again.id, row.id] and store.newest("other") == []


def test_a_workers_breaker_is_found(store, cleared):
    row = start(store, cleared(1))
    assert store.trips(row.id) == []
    store.note(row, RolloutEvent(BREAKER, "5 in a row", "worker 7"), 101.0)
    (trip,) = store.trips(row.id)
    assert trip.reason == "5 in a row" and trip.actor == "worker 7"


def test_the_way_back_after_a_promotion(store, cleared, routes, database, registry):
    first, second = cleared(1), cleared(2)
    with database.begin() as connection:
        serve_in(connection, "support", first, None, 0.0)
    row = start(store, second)
    assert row.stable == first and not store.can_go_back(row)
    with database.begin() as connection:
        serve_in(connection, "support", second, first, 900.0)
    done = store.change(row, RolloutEvent("promoted", "good"), phase=Phase.PROMOTED.value, ended_at=200.0)
    route = routes.get("support")
    assert (route.version, route.previous, route.bake_until) == (second, first, 900.0)
    assert registry.get(second).stage is Stage.RELEASED and store.can_go_back(done)
    routes.end_bake("support")
    assert not store.can_go_back(done)


def test_the_schema_itself_keeps_a_second_one_out(store, cleared, database):
    from adapters.errors import DatabaseError

    row = start(store, cleared(1))
    values = {c.name: getattr(row, c.name) for c in tables.rollouts.columns if c.name not in ("id", "phase")}
    with pytest.raises(DatabaseError), database.begin() as connection:
        connection.execute(tables.rollouts.insert().values(**values, phase="ramp"))
