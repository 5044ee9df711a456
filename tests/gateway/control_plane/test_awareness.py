"""A change that anybody makes is known at once."""

from __future__ import annotations

import threading

import pytest

from adapters.database import Database, bump
from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore
from gateway.control_plane import awareness
from gateway.control_plane.awareness import Awareness
from tests.support.waiting import soon


def change(database):
    with database.begin() as connection:
        bump(connection, "registry")


def test_a_change_is_told_once_and_the_first_look_is_no_change(database: Database):
    told = []
    watch = Awareness(FleetStore(database), lambda: told.append(1))
    change(database)
    assert [watch.look(), watch.look()] == [False, False]
    change(database)
    change(database)
    assert [watch.look(), watch.look()] == [True, False]
    assert told == [1]


def test_the_thread_tells_and_ends(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(awareness, "AWAY", 0.01)
    told, looked, fleet = threading.Event(), threading.Event(), FleetStore(database)
    failures = iter([DatabaseError("away"), DatabaseError("away")])
    revision = fleet.registry_revision

    def flaky():
        if (error := next(failures, None)) is not None:
            raise error
        looked.set()
        return revision()

    monkeypatch.setattr(fleet, "registry_revision", flaky)
    watch = Awareness(fleet, told.set)
    watch.start()
    assert looked.wait(60)
    for _ in range(100):  # the look that was under way may have seen the change already
        change(database)
        if told.wait(0.2):
            break
    assert told.is_set()
    watch.stop()
    soon(lambda: not watch._thread.is_alive())
