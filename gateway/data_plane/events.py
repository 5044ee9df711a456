"""Records of answers, feedback and evidence on their way to the database: written by a thread in batches.

The loop never waits: an append to a bounded queue, or a counted drop. While the database is away the thread keeps its
batch and tries again, the queue fills, and then the newest records are dropped and counted by kind. A bad event, one
that may end a rollout, wakes the thread at once instead of waiting for the next batch.
A write that failed may have arrived: repeated, it adds what is not there (adapters.response_store).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy.exc import DataError, IntegrityError

from adapters.errors import DatabaseError
from monitors.conventions import EventKind

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]

# Which table each kind is a row of; the columns are in adapters.response_store.COLUMNS.
TABLES = (
    (EventKind.RESPONSE, "responses"),
    (EventKind.FEEDBACK, "feedback"),
    (EventKind.ROLLOUT, "rollout_events"),
    (EventKind.SCORE, "scores"),
    (EventKind.PAIR, "shadow_pairs"),
)

INTERVAL = 0.1  # seconds between batches
URGENT = 0.01  # seconds between batches while bad events come in: many at once are one batch
BATCH = 500  # rows per batch
LONGEST_PAUSE = 5.0  # seconds between tries while the database is away


class EventStore(Protocol):
    """Where records go (adapters.response_store.ResponseStore)."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Rows of one table in one transaction. Raises DatabaseError when it cannot take them now."""


class _Lane:
    """One kind of record and its queue."""

    __slots__ = ("kind", "queue", "table")

    def __init__(self, kind: EventKind, table: str) -> None:
        self.kind, self.table = kind, table
        self.queue: deque[Row] = deque()

    def take(self) -> list[Row]:
        """Up to BATCH rows, oldest first."""
        queue = self.queue
        return [queue.popleft() for _ in range(min(BATCH, len(queue)))]


class EventWriter:
    """Owns the thread. `on_drop(kind, count)` may be called from the loop's thread and from the writer's."""

    def __init__(self, store: EventStore, on_drop: Callable[[str, int], None], capacity: int = 20_000) -> None:
        self._store = store
        self._on_drop = on_drop
        self._capacity = capacity
        self._lanes = {kind: _Lane(kind, table) for kind, table in TABLES}
        self._responses = self._lanes[EventKind.RESPONSE]
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._deadline = float("inf")  # of the final flush, monotonic
        self._away = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def response(self, row: Row) -> None:
        """Queue one answered request, in the order of COLUMNS["responses"]. Never waits."""
        lane = self._responses
        if len(lane.queue) < self._capacity:
            lane.queue.append(row)
        else:
            self._on_drop(lane.kind, 1)

    def record(self, kind: EventKind, row: Row) -> bool:
        """Queue one row of another kind, from any thread. False when it was dropped (and counted)."""
        lane = self._lanes[kind]
        if len(lane.queue) < self._capacity:
            lane.queue.append(row)
            return True
        self._on_drop(kind, 1)
        return False

    def feedback(self, row: Row) -> bool:
        """Queue one feedback. False when it was dropped: tell the client (503)."""
        return self.record(EventKind.FEEDBACK, row)

    def hurry(self) -> None:
        """What was queued last may end a rollout: write it now. From any thread."""
        self._wake.set()

    def close(self, seconds: float) -> int:
        """Write what is queued, for at most `seconds`; returns how many records were lost. Blocks: not for the loop."""
        self._deadline = time.monotonic() + seconds
        self._stop.set()
        self._wake.set()
        self._thread.join(seconds + 1.0)
        lost = 0
        for lane in self._lanes.values():
            if left := len(lane.queue):
                self._on_drop(lane.kind, left)
                lost += left
                lane.queue.clear()
        return lost

    def _run(self) -> None:
        while True:
            hurried = self._wake.wait(INTERVAL)
            self._wake.clear()
            stopping = self._stop.is_set()
            for lane in self._lanes.values():
                while rows := lane.take():
                    self._write(lane, rows)
                    if len(rows) < BATCH:
                        break
            if stopping:
                return
            if hurried:
                self._stop.wait(URGENT)

    def _write(self, lane: _Lane, rows: list[Row]) -> None:
        """Until they are written, or refused one by one, or time is up."""
        pause = INTERVAL
        while (error := self._try(lane, rows)) is not None:
            if _is_refusal(error):
                self._write_singly(lane, rows)
                return
            if not self._away:
                logger.error("records wait in memory until the database takes them: %s", error)
            self._away = True
            if time.monotonic() >= self._deadline:
                self._on_drop(lane.kind, len(rows))
                return
            self._stop.wait(pause) if not self._stop.is_set() else time.sleep(INTERVAL)
            pause = min(pause * 2, LONGEST_PAUSE)
        if self._away:
            logger.info("the database takes records again")
        self._away = False

    def _write_singly(self, lane: _Lane, rows: list[Row]) -> None:
        """A row that the database cannot hold must not cost the others."""
        for row in rows:
            error = self._try(lane, [row])
            if error is not None:
                logger.error("a %s record cannot be stored and is dropped: %s", lane.kind, error)
                self._on_drop(lane.kind, 1)

    def _try(self, lane: _Lane, rows: list[Row]) -> Exception | None:
        """Write the rows in one transaction; what went wrong, if anything."""
        try:
            self._store.append(lane.table, rows)
        except Exception as error:  # the thread must outlive whatever a driver raises
            return error
        return None


def _is_refusal(error: Exception) -> bool:
    """The rows are wrong, rather than the database away: trying again would fail for ever."""
    return not isinstance(error, DatabaseError) or isinstance(error.__cause__, IntegrityError | DataError)
