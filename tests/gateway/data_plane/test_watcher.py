"""What wakes a worker's watcher, against both databases."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from adapters.database import Database
from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore
from adapters.keys import create_key
from adapters.snapshot import PinnedVersion, Snapshot, to_json
from gateway.data_plane import watcher
from gateway.data_plane.watcher import SnapshotWatcher
from tests.support.waiting import PATIENCE, eventually


class Watched:
    """A watcher, and what it brought and when."""

    def __init__(self, database: Database) -> None:
        self.fleet = FleetStore(database)
        self.snapshots: list[int] = []
        self.at = 0.0  # epoch seconds of the last one
        self.keys: list[int] = []
        self.came = asyncio.Event()
        self.watcher = SnapshotWatcher(database, self._snapshot, lambda keys: self.keys.append(len(keys)))

    def _snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot.id)
        self.at = time.time()
        self.came.set()

    def publish(self, effective_at: float) -> int:
        base = PinnedVersion(1, "base@0", "base", ())
        return self.fleet.publish(to_json(Snapshot(0, 0.0, base, (), (), ())), effective_at)

    async def next(self) -> None:
        """Until the next snapshot is brought."""
        await asyncio.wait_for(self.came.wait(), PATIENCE)
        self.came.clear()


@asynccontextmanager
async def watching(database: Database) -> AsyncIterator[Watched]:
    watched = Watched(database)
    watched.watcher.start()
    try:
        yield watched
    finally:
        watched.watcher.stop()


def counted(monkeypatch, owner: object, name: str) -> list[float]:
    """When `owner.name` was called."""
    calls: list[float] = []
    real: Callable[[object], object] = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self: (calls.append(time.monotonic()), real(self))[1])
    return calls


async def test_what_is_published_comes_at_its_instant(database: Database):
    async with watching(database) as watched:
        for _ in range(5):
            instant = time.time() + 0.3
            number = watched.publish(instant)
            await watched.next()
            assert watched.snapshots[-1] == number and watched.at > instant - 0.01
        create_key(database, "a", frozenset({"inference"}), frozenset())
        number = watched.publish(0.0)
        await watched.next()
        assert watched.keys[-1] == 1 and watched.snapshots[-1] == number


async def test_the_loop_asks_sqlite_and_wakes_the_thread_for_news_only(database: Database, monkeypatch):
    looks = counted(monkeypatch, SnapshotWatcher, "_look")
    glances = counted(monkeypatch, watcher.Glance, "news")
    async with watching(database) as watched:
        begun = time.monotonic()
        await asyncio.sleep(0.8)
        if database.dialect == "sqlite":
            assert len(looks) <= 2 + (time.monotonic() - begun) / watcher.REASSURE
            await eventually(lambda: len(glances) >= 3)
        else:
            await eventually(lambda: len(looks) >= 3)
            assert not glances
        before = len(looks)
        watched.publish(0.0)
        await watched.next()
        assert len(looks) > before


async def test_what_the_loop_overlooks_is_found_all_the_same(database: Database, monkeypatch):
    monkeypatch.setattr(watcher.Glance, "news", lambda _self: False)
    async with watching(database) as watched:
        number = watched.publish(0.0)
        await watched.next()
        assert watched.snapshots == [number]


async def test_the_state_is_as_old_as_the_last_answer_of_the_database(database: Database, monkeypatch):
    async with watching(database) as watched:
        seen = set()
        for _ in range(30):  # 1.5 s, in which the thread alone would look twice
            await asyncio.sleep(0.05)
            seen.add(watched.watcher.refreshed)
        assert len(seen) > 3
        def away() -> None:
            raise DatabaseError("gone")

        monkeypatch.setattr(watched.watcher._fleet, "poll", away)
        monkeypatch.setattr(watched.watcher._glance, "news", lambda: True)
        await eventually(lambda: watched.watcher._away)
        before = watched.watcher.refreshed
        await asyncio.sleep(0.3)
        assert watched.watcher.refreshed == before
        monkeypatch.undo()
        await eventually(lambda: watched.watcher.refreshed > before)


async def test_a_snapshot_that_could_not_be_read_is_read_later(database: Database, monkeypatch):
    """The database goes away between the look and the reading."""
    async with watching(database) as watched:
        real, tries = watched.watcher._fleet.latest, []

        def away_once() -> Snapshot | None:
            tries.append(1)
            if len(tries) == 1:
                raise DatabaseError("gone")
            return real()

        monkeypatch.setattr(watched.watcher._fleet, "latest", away_once)
        number = watched.publish(0.0)
        await watched.next()
        assert watched.snapshots == [number] and len(tries) == 2


async def test_an_unusable_snapshot_is_named_once(database: Database, caplog):
    async with watching(database) as watched:
        watched.fleet.publish("{}", 0.0)
        await eventually(lambda: "unusable" in caplog.text)
        number = watched.publish(0.0)
        await watched.next()
        assert watched.snapshots == [number] and caplog.text.count("unusable") == 1


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)  # elsewhere the thread asks, and nobody else
async def test_news_that_nobody_has_read_make_the_state_old(database: Database, monkeypatch):
    """The thread is late; the loop, which is told of news once, must not take silence for "all is read"."""
    late, go_on = threading.Event(), threading.Event()
    real = SnapshotWatcher._look

    def slow(self: SnapshotWatcher) -> None:
        if self._told > self._read:
            late.set()
            go_on.wait(PATIENCE)
        real(self)

    async with watching(database) as watched:
        monkeypatch.setattr(SnapshotWatcher, "_look", slow)
        number = watched.publish(0.0)
        await eventually(late.is_set)
        before = watched.watcher.refreshed
        await asyncio.sleep(0.3)
        assert watched.watcher.refreshed == before and not watched.snapshots
        go_on.set()
        await watched.next()
        await eventually(lambda: watched.watcher.refreshed > before)
        assert watched.snapshots == [number]
