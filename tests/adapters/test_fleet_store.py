"""Replicas, holdings, assignments, snapshots and leases."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import event

from adapters.errors import Conflict
from adapters.fleet_store import FleetStore
from adapters.keys import create_key
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, to_json
from adapters.types import Holding, HoldingState, Replica

REPLICA = Replica("engine-0", "http://127.0.0.1:1", True, "boot-1", 12.5, "", 4, 8)
HOLDING = Holding("engine-0", "support@0123456789ab", HoldingState.READY, "boot-1", 3.5, "", {"gap": 0.5})


@pytest.fixture
def fleet(database):
    return FleetStore(database)


def snapshot(low=0.0, high=1.0):
    arm = Arm(1, "stable", "support@0123456789ab", "support@0123456789ab", low, high, ("engine-0",))
    base = PinnedVersion(2, "base@0123456789ab", "base", ("engine-0",))
    route, endpoint = RouteState("support", "salt", (arm,)), Endpoint("engine-0", "unix:/x", "key")
    return Snapshot(0, 0.0, base, (route,), (), (endpoint,))


def test_replicas(fleet):
    fleet.upsert_replica(replace(REPLICA, name="engine-1"))
    fleet.upsert_replica(REPLICA)
    fleet.upsert_replica(replace(REPLICA, up=False, error="gone"))
    assert fleet.replicas() == [replace(REPLICA, up=False, error="gone"), replace(REPLICA, name="engine-1")]
    fleet.upsert_holding(HOLDING)
    fleet.upsert_holding(replace(HOLDING, replica="engine-1"))
    fleet.forget_replica("engine-0")
    fleet.forget_replica("engine-0")
    assert [found.name for found in fleet.replicas()] == ["engine-1"]
    assert [held.replica for held in fleet.holdings()] == ["engine-1"]


def test_holdings(fleet):
    other = replace(HOLDING, version="support@ffffffffffff")
    fleet.upsert_holding(other)
    fleet.upsert_holding(HOLDING)
    failed = replace(HOLDING, state=HoldingState.FAILED, error="no", boot="boot-2", probe={})
    fleet.upsert_holding(failed)
    assert fleet.holdings() == [failed, other]
    assert fleet.holdings(version=other.version) == fleet.holdings("engine-0", other.version) == [other]
    assert fleet.holdings("engine-9") == []
    fleet.delete_holding(HOLDING.replica, HOLDING.version)
    assert fleet.holdings() == [other]


def test_an_assignment_is_reused_only_when_everything_is_the_same(fleet):
    same = [fleet.assignment("r", "r@0123456789ab", "stable", 0.1) for _ in range(3)]
    others = [
        fleet.assignment("s", "r@0123456789ab", "stable", 0.1),
        fleet.assignment("r", "r@0123456789ac", "stable", 0.1),
        fleet.assignment("r", "r@0123456789ab", "candidate", 0.1),
        fleet.assignment("r", "r@0123456789ab", "stable", 0.2),
    ]
    assert len({*same, *others}) == 5
    row = fleet.assignments_by_id(same[0])
    assert {key: row[key] for key in ("route", "version", "arm", "share")} == {
        "route": "r", "version": "r@0123456789ab", "arm": "stable", "share": 0.1,
    }  # fmt: skip
    assert fleet.assignments_by_id(999) is None


def test_an_assignment_made_by_many_at_once_is_one(fleet):
    found = []
    work = [threading.Thread(target=lambda: found.append(fleet.assignment("r", "v", "stable", 1.0))) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_snapshots_are_published_in_order_and_come_back_whole(fleet):
    assert fleet.latest() is None
    assert fleet.poll() == (0, 0)
    first = fleet.publish(to_json(snapshot()), 5.0)
    second = fleet.publish(to_json(snapshot()), 6.5)
    assert second > first
    found = fleet.latest()
    expected = snapshot()
    assert (found.id, found.effective_at) == (second, 6.5)
    assert (found.routes, found.base) == (expected.routes, expected.base)
    assert found.endpoints == (Endpoint("engine-0", "unix:/x", ""),)  # engine keys are never stored
    assert fleet.poll() == (second, 0)


def test_a_snapshot_that_does_not_add_up_is_refused(fleet):
    fleet.publish(to_json(snapshot(high=0.9)), 0.0)
    with pytest.raises(ValueError, match="not \\[0, 1\\)"):
        fleet.latest()


def test_polling_costs_the_orm_nothing(fleet, database):
    fleet.publish(to_json(snapshot()), 0.0)
    create_key(database, "a", ["inference"])
    statements = []
    event.listen(database._reader, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert fleet.poll() == (fleet.latest().id, 1)
    assert [text for text in statements if "revisions" in text] == []


@pytest.mark.parametrize("keep", [0, 1, 3, 10])
def test_pruning_keeps_the_newest_and_never_reuses_an_id(fleet, keep):
    ids = [fleet.publish(to_json(snapshot()), 0.0) for _ in range(5)]
    fleet.prune_snapshots(keep)
    assert fleet.latest().id == ids[-1]
    assert fleet.publish(to_json(snapshot()), 0.0) > ids[-1]


def test_a_lease_has_one_holder(fleet):
    assert fleet.acquire_lease("controller", "a", ttl=10, now=100) == 1
    assert fleet.acquire_lease("controller", "b", ttl=10, now=105) is None
    assert fleet.lease_holder("controller", 105) == "a"
    assert fleet.lease_holder("controller", 110) is None
    assert fleet.renew_lease("controller", "a", 1, ttl=10, now=109)
    assert fleet.acquire_lease("controller", "b", ttl=10, now=118) is None
    assert fleet.acquire_lease("controller", "b", ttl=10, now=120) == 2
    assert not fleet.renew_lease("controller", "a", 1, ttl=10, now=120)
    assert fleet.lease_holder("other", 120) is None


def test_our_own_live_lease_keeps_its_epoch_and_a_late_one_does_not(fleet):
    assert fleet.acquire_lease("c", "a", ttl=10, now=100) == 1
    assert fleet.acquire_lease("c", "a", ttl=10, now=105) == 1
    assert not fleet.renew_lease("c", "a", 1, ttl=10, now=116)
    assert fleet.acquire_lease("c", "a", ttl=10, now=116) == 2


def test_a_released_lease_is_free_at_once(fleet):
    fleet.acquire_lease("c", "a", ttl=1000, now=100)
    fleet.release_lease("c", "b", 1)
    fleet.release_lease("c", "a", 9)
    assert fleet.lease_holder("c", 100) == "a"
    fleet.release_lease("c", "a", 1)
    assert fleet.acquire_lease("c", "b", ttl=10, now=100) == 2


@pytest.mark.parametrize("state", ["never held", "expired"])
def test_of_many_that_want_the_lease_one_gets_it(fleet, state):
    if state == "expired":
        fleet.acquire_lease("c", "old", ttl=1, now=0)
    found = []
    work = [
        threading.Thread(target=lambda n=n: found.append(fleet.acquire_lease("c", f"h{n}", ttl=10, now=100)))
        for n in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 8
    assert [epoch for epoch in found if epoch] == [2 if state == "expired" else 1]


def test_a_leader_that_overslept_cannot_publish(fleet):
    fleet.acquire_lease("controller", "a", ttl=10, now=100)
    fleet.publish(to_json(snapshot()), 0.0, fence=("controller", 1))
    fleet.acquire_lease("controller", "b", ttl=10, now=120)
    with pytest.raises(Conflict, match="another process leads now"):
        fleet.publish(to_json(snapshot()), 0.0, fence=("controller", 1))
    assert fleet.publish(to_json(snapshot()), 0.0, fence=("controller", 2)) == fleet.latest().id


def test_the_registry_revision_counts_changes(fleet, routes):
    before = fleet.registry_revision()
    routes.create("support")
    assert fleet.registry_revision() > before
