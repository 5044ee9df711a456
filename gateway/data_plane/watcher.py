"""Keeps a worker's routing state current: a thread reads the database, the loop switches at the snapshot's instant.

Whether there is something to read is found out by polling: on SQLite by the loop itself, which only then wakes the
thread, on PostgreSQL by the thread, as an answer may be long in coming.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from adapters.database import Database
from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore
from adapters.keys import list_keys
from adapters.pulse import Glance
from adapters.snapshot import Snapshot
from adapters.types import ApiKey

POLL = 0.04  # seconds between two looks; snapshots are published 0.15 s ahead
POLL_FAILED = 0.5  # seconds, while the database is away
REASSURE = 1.0  # seconds after which the thread looks by itself, whatever the loop has seen

logger = logging.getLogger("understudy.watcher")


class SnapshotWatcher:
    """Calls `on_snapshot` and `on_keys` in the event loop. While the database is away the last state stands."""

    def __init__(
        self,
        database: Database,
        on_snapshot: Callable[[Snapshot], None],
        on_keys: Callable[[list[ApiKey]], None],
    ) -> None:
        self._database = database
        self._fleet = FleetStore(database)
        self._on_snapshot = on_snapshot
        self._on_keys = on_keys
        self._seen: tuple[int, int] = (0, -1)
        self._glance = Glance(database)
        self._glancing: asyncio.TimerHandle | None = None
        self._news = threading.Event()  # or the end
        self._told, self._read = 0, 0  # times that the loop saw news; as many of them as the thread has looked after
        self._stopped = False
        self._away = False  # the database could not be read
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.refreshed = 0.0  # time.monotonic() of the last successful look

    def start(self) -> None:
        """Look once, now (raises DatabaseError), then keep looking in the background."""
        self._loop = asyncio.get_running_loop()
        self._look()
        self._thread = threading.Thread(target=self._run, name="snapshot-watcher", daemon=True)
        self._thread.start()
        if self._glance.possible:
            self._glancing = self._loop.call_later(POLL, self._look_for_news)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        if self._glancing is not None:
            self._glancing.cancel()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _look_for_news(self) -> None:
        """In the loop, and so never waiting."""
        assert self._loop is not None
        self._glancing = self._loop.call_later(POLL, self._look_for_news)
        if self._away:
            return
        if self._glance.news():
            self._told += 1
            self._news.set()
        elif self._read == self._told:  # it tells once: until the thread has read what is new, the state is old
            self.refreshed = time.monotonic()

    def _run(self) -> None:
        usual = REASSURE if self._glance.possible else POLL
        while True:
            self._news.wait(POLL_FAILED if self._away else usual)
            self._news.clear()
            if self._stopped:
                return
            told = self._told
            try:
                self._look()
                self._read = told
                if self._away:
                    logger.info("the database is back")
                self._away = False
            except DatabaseError as error:
                if not self._away:
                    logger.error("the database is away, serving from the last snapshot: %s", error)
                self._away = True
            except (ValueError, KeyError, TypeError) as error:
                logger.error("a published snapshot is unusable and is ignored: %s", error)

    def _look(self) -> None:
        self._glance.open()
        snapshot_id, keys_revision = self._fleet.poll()
        seen_snapshot, seen_keys = self._seen
        if keys_revision != seen_keys:
            keys = list_keys(self._database)
            self._seen = (seen_snapshot, keys_revision)
            self._in_loop(0.0, self._on_keys, keys)
        if snapshot_id != seen_snapshot:
            self._take(snapshot_id, keys_revision)
        self.refreshed = time.monotonic()

    def _take(self, snapshot_id: int, keys_revision: int) -> None:
        """Have the loop switch. What cannot be understood counts as seen, what could not be read does not."""
        try:
            snapshot = self._fleet.latest()
        except (ValueError, KeyError, TypeError):
            self._seen = (snapshot_id, keys_revision)
            raise
        self._seen = (snapshot.id if snapshot else snapshot_id, keys_revision)
        if snapshot is not None:
            self._in_loop(snapshot.effective_at - time.time(), self._on_snapshot, snapshot)

    def _in_loop(self, delay: float, call: Callable[[Any], None], value: object) -> None:
        """Run `call(value)` in the loop; at once when this is the loop's own thread and nothing is to be waited for."""
        assert self._loop is not None
        if self._thread is None and delay <= 0:
            call(value)
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, max(0.0, delay), call, value)
