"""Records of answers and feedback on their way to the database: appended by the loop, written by a thread in batches.

The loop never waits: an append to a bounded queue, or a counted drop. While the database is away the thread keeps its
batch and tries again, the queue fills, and then the newest records are dropped and counted by kind.
A write that failed may have arrived: readers count a response id once.
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
RESPONSE_COLUMNS = (
    "response_id", "at", "assignment", "unit", "endpoint", "status", "outcome", "ttft", "duration", "input_tokens",
    "output_tokens",
)  # fmt: skip
FEEDBACK_COLUMNS = ("response_id", "at", "assignment", "unit", "score", "kind", "comment")

INTERVAL = 0.1  # seconds between batches
BATCH = 500  # rows per batch
LONGEST_PAUSE = 5.0  # seconds between tries while the database is away


class EventStore(Protocol):
    """Where records go. Raises DatabaseError when it cannot take them now."""

    def insert_responses(self, rows: list[dict[str, Any]]) -> None:
        """Rows of `responses`, in one transaction."""

    def insert_feedback(self, rows: list[dict[str, Any]]) -> None:
        """Rows of `feedback`, in one transaction."""


class _Lane:
    """One kind of record: its queue and how it is written."""

    def __init__(
        self, kind: EventKind, columns: Sequence[str], insert: Callable[[list[dict[str, Any]]], None], capacity: int
    ) -> None:
        self.kind, self.columns, self.insert, self.capacity = kind, columns, insert, capacity
        self.queue: deque[Row] = deque()

    def take(self) -> list[Row]:
        """Up to BATCH rows, oldest first."""
        queue = self.queue
        return [queue.popleft() for _ in range(min(BATCH, len(queue)))]


class EventWriter:
    """Owns the thread. `on_drop(kind, count)` may be called from the loop's thread and from the writer's."""

    def __init__(self, store: EventStore, on_drop: Callable[[str, int], None], capacity: int = 20_000) -> None:
        self._on_drop = on_drop
        self._responses = _Lane(EventKind.RESPONSE, RESPONSE_COLUMNS, store.insert_responses, capacity)
        self._feedback = _Lane(EventKind.FEEDBACK, FEEDBACK_COLUMNS, store.insert_feedback, capacity)
        self._stop = threading.Event()
        self._deadline = float("inf")  # of the final flush, monotonic
        self._away = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def response(self, row: Row) -> None:
        """Queue one answered request, in the order of RESPONSE_COLUMNS. Never waits."""
        lane = self._responses
        if len(lane.queue) < lane.capacity:
            lane.queue.append(row)
        else:
            self._on_drop(lane.kind, 1)

    def feedback(self, row: Row) -> bool:
        """Queue one feedback, in the order of FEEDBACK_COLUMNS. False when it was dropped: tell the client (503)."""
        lane = self._feedback
        if len(lane.queue) < lane.capacity:
            lane.queue.append(row)
            return True
        self._on_drop(lane.kind, 1)
        return False

    def close(self, seconds: float) -> int:
        """Write what is queued, for at most `seconds`; returns how many records were lost. Blocks: not for the loop."""
        self._deadline = time.monotonic() + seconds
        self._stop.set()
        self._thread.join(seconds + 1.0)
        lost = 0
        for lane in (self._responses, self._feedback):
            if left := len(lane.queue):
                self._on_drop(lane.kind, left)
                lost += left
                lane.queue.clear()
        return lost

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(INTERVAL)
            for lane in (self._responses, self._feedback):
                while rows := lane.take():
                    self._write(lane, rows)
                    if len(rows) < BATCH:
                        break
            if stopping:
                return

    def _write(self, lane: _Lane, rows: list[Row]) -> None:
        """Until they are written, or refused one by one, or time is up."""
        pause = INTERVAL
        while (error := _try(lane, rows)) is not None:
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
            error = _try(lane, [row])
            if error is not None:
                logger.error("a %s record cannot be stored and is dropped: %s", lane.kind, error)
                self._on_drop(lane.kind, 1)


def _try(lane: _Lane, rows: list[Row]) -> Exception | None:
    """Write the rows in one transaction; what went wrong, if anything."""
    try:
        lane.insert([dict(zip(lane.columns, row, strict=True)) for row in rows])
    except Exception as error:  # the thread must outlive whatever a driver raises
        return error
    return None


def _is_refusal(error: Exception) -> bool:
    """The rows are wrong, rather than the database away: trying again would fail for ever."""
    return not isinstance(error, DatabaseError) or isinstance(error.__cause__, IntegrityError | DataError)
