from __future__ import annotations

import pytest

from adapters.errors import Conflict
from adapters.fleet_store import FleetStore
from adapters.types import Route
from gateway.control_plane.publish import Base, Serving, assignment_keys, compose
from gateway.control_plane.publisher import SWITCH_AFTER, Publisher
from tests.support.world import Clock

V, W = "r@00000000000a", "r@00000000000b"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(database) -> FleetStore:
    return FleetStore(database)


def snapshot(version: str, *replicas: str):
    serving = Serving({name: f"unix:/{name}" for name in replicas}, lambda v: replicas, ())
    routes = [Route("r", version=version)]
    ids = {key: number for number, key in enumerate(assignment_keys(routes, Base("base@000000000000", "base"), serving))}
    return compose(routes, Base("base@000000000000", "base"), serving, ids)


async def test_only_changes_are_published_and_a_moment_ahead(fleet, clock):
    publisher = Publisher(fleet, clock, 2.0)
    await publisher.adopt()
    assert await publisher.publish(snapshot(V, "e0"), None)
    assert fleet.latest().effective_at == clock.now + SWITCH_AFTER
    assert not await publisher.publish(snapshot(V, "e0"), None)
    assert await publisher.publish(snapshot(V, "e0", "e1"), None)
    assert fleet.latest().id == 2


async def test_another_controller_goes_on_from_the_same_snapshot(fleet, clock):
    first, second = Publisher(fleet, clock, 2.0), Publisher(fleet, clock, 2.0)
    await first.publish(snapshot(V, "e0"), None)
    await second.adopt()
    assert not await second.publish(snapshot(V, "e0"), None)


async def test_requests_may_come_for_a_while_after_a_switch(fleet, clock):
    publisher = Publisher(fleet, clock, connect_timeout=2.0)
    await publisher.adopt()
    clock.now += 100.0
    assert not publisher.may_get_requests("e0", V)
    await publisher.publish(snapshot(V, "e0"), None)
    assert publisher.may_get_requests("e0", V) and publisher.routed_to("e0") == 1
    clock.now += 50.0
    await publisher.publish(snapshot(V, "e0"), None)
    await publisher.publish(snapshot(W, "e0"), None)
    clock.now += 3.1  # until the switch, a late connection, and a margin
    assert publisher.may_get_requests("e0", V)
    clock.now += SWITCH_AFTER
    assert not publisher.may_get_requests("e0", V) and publisher.may_get_requests("e1", W) is False
    await publisher.publish(snapshot(W, "e0"), None)
    assert publisher.may_get_requests("e0", W)


async def test_a_new_leader_takes_everything_for_routed_just_now(fleet, clock):
    publisher = Publisher(fleet, clock, 2.0)
    await publisher.adopt()
    assert publisher.may_get_requests("e0", "r@00000000ffff")
    clock.now += 4.0
    assert not publisher.may_get_requests("e0", "r@00000000ffff")


async def test_an_old_leader_is_fenced_off(fleet, clock):
    epoch = fleet.acquire_lease("controller", "one", 5.0, clock.now)
    fleet.acquire_lease("controller", "two", 5.0, clock.now + 10.0)
    publisher = Publisher(fleet, clock, 2.0)
    with pytest.raises(Conflict):
        await publisher.publish(snapshot(V, "e0"), ("controller", epoch))
    assert fleet.latest() is None


async def test_a_snapshot_that_cannot_be_read_is_replaced(fleet, clock, caplog):
    arm = {
        "assignment": 1, "arm": "stable", "version": V, "model": V, "low": 0.0, "high": 0.5, "replicas": [],
    }  # fmt: skip
    base = {"assignment": 1, "version": "base@0", "model": "base", "replicas": []}
    routes = [{"name": "r", "salt": "r", "arms": [arm]}]
    fleet.publish({"base": base, "routes": routes, "pinned": [], "endpoints": []}, clock.now)
    publisher = Publisher(fleet, clock, 2.0)
    await publisher.adopt()
    assert "cannot be read" in caplog.text
    assert await publisher.publish(snapshot(V, "e0"), None)
