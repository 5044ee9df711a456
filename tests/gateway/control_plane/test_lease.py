from __future__ import annotations

import asyncio
import threading

import pytest

from adapters.errors import DatabaseError
from adapters.fleet_store import CONTROLLER_LEASE, FleetStore
from gateway.control_plane import lease as lease_module
from gateway.control_plane.lease import TTL, Lease
from tests.support.world import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(database) -> FleetStore:
    return FleetStore(database)


async def test_one_leads_and_the_next_follows_at_once(fleet, clock):
    one, two = Lease(fleet, "one", clock), Lease(fleet, "two", clock)
    assert await one.refresh() and not await two.refresh()
    assert one.fence == (CONTROLLER_LEASE, 1) and two.fence is None
    clock.now += TTL - 0.1
    assert await one.refresh()  # renewed: the same epoch
    assert one.epoch == 1
    await one.release()
    assert not one.held
    assert await two.refresh() and two.epoch == 2


async def test_a_leader_that_slept_too_long_does_not_lead_any_more(fleet, clock):
    one, two = Lease(fleet, "one", clock), Lease(fleet, "two", clock)
    await one.refresh()
    clock.now += TTL + 0.1
    assert await two.refresh()
    assert not await one.refresh() and one.epoch is None


async def test_without_a_database_leadership_runs_out(fleet, clock, monkeypatch, caplog):
    one = Lease(fleet, "one", clock)
    await one.refresh()

    def lost(*_args):
        raise DatabaseError("away")

    monkeypatch.setattr(fleet, "renew_lease", lost)
    assert await one.refresh()  # until it runs out nobody else can lead
    await one.refresh()
    assert caplog.text.count("cannot be renewed") == 1
    now = lease_module.time.monotonic()
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: now + TTL - 0.9)
    assert not one.held  # a second before the others may think so


async def test_it_is_kept_and_let_go(fleet, clock, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_EVERY", 0.02)
    one, stop = Lease(fleet, "one", clock), asyncio.Event()
    keeping = asyncio.create_task(one.keep(stop))
    while not one.held:
        await asyncio.sleep(0.01)
    expires = fleet.lease_holder(CONTROLLER_LEASE, clock.now + TTL - 0.1)
    assert expires == "one"
    clock.now += 3.0
    while fleet.lease_holder(CONTROLLER_LEASE, clock.now + TTL - 0.1) is None:
        await asyncio.sleep(0.01)
    stop.set()
    await keeping
    assert fleet.lease_holder(CONTROLLER_LEASE, clock.now) is None


async def test_a_claim_under_way_does_not_take_back_what_was_let_go(fleet, clock, monkeypatch):
    one, two = Lease(fleet, "one", clock), Lease(fleet, "two", clock)
    assert await one.refresh()
    begun, go_on = threading.Event(), threading.Event()
    renew = fleet.renew_lease

    def slow(*given):
        begun.set()
        assert go_on.wait(60)
        return renew(*given)

    monkeypatch.setattr(fleet, "renew_lease", slow)
    claiming = asyncio.create_task(one.refresh())
    await asyncio.to_thread(begun.wait, 60)
    claiming.cancel()
    letting_go = asyncio.create_task(one.release())
    await asyncio.sleep(0.05)
    go_on.set()
    await letting_go
    assert await two.refresh()
