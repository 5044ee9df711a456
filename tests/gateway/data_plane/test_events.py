import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from adapters import tables
from adapters.database import Database
from adapters.errors import DatabaseError
from adapters.response_store import COLUMNS, ResponseStore
from gateway.data_plane import events
from gateway.data_plane.events import EventWriter
from monitors.conventions import EventKind
from tests.support.python import kill, start_python
from tests.support.waiting import PATIENCE, soon


def response(number: int = 0, **changes: Any) -> tuple[Any, ...]:
    row = {
        "response_id": f"id-{number}",
        "at": 1.0,
        "assignment": 1,
        "unit": b"12345678",
        "endpoint": "chat",
        "status": 200,
        "outcome": "ok",
        "ttft": None,
        "duration": 0.5,
        "input_tokens": 3,
        "output_tokens": None,
        "flags": 0,
    }
    return tuple({**row, **changes}[column] for column in COLUMNS["responses"])


def feedback(number: int = 0) -> tuple[Any, ...]:
    return (f"id-{number}", 1.0, 1, b"12345678", 0.5, "thumb", None)


class Store:
    """Keeps rows in memory, by table; away while `away` is set."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.rows: dict[str, list[Any]] = {table: [] for table in COLUMNS}
        self.tries = 0

    @property
    def responses(self) -> list[Any]:
        return self.rows["responses"]

    @property
    def feedback(self) -> list[Any]:
        return self.rows["feedback"]

    def append(self, table: str, rows: Sequence[Any]) -> None:
        self.tries += 1
        if self.away.is_set():
            raise DatabaseError("away")
        self.rows[table] += rows


class Drops(Counter[str]):
    def __call__(self, kind: str, count: int) -> None:
        self[kind] += count


def test_every_kind_has_a_table_and_only_texts_have_none() -> None:
    assert {kind for kind, _ in events.TABLES} == {*EventKind} - {EventKind.TEXT, EventKind.GRADING}
    assert {table for _, table in events.TABLES} == {*COLUMNS}


def test_a_bad_event_does_not_wait_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL", 3600.0)
    store = Store()
    writer = EventWriter(store, Drops())
    writer.response(response(1))
    time.sleep(0.05)
    assert store.responses == []
    writer.response(response(2, status=502))
    writer.record(EventKind.SCORE, ("id-1", 1.0, 1, b"12345678", "exact", 0.5))
    writer.hurry()
    soon(lambda: len(store.responses) == 2 and len(store.rows["scores"]) == 1)
    writer.close(60.0)


def test_evidence_reaches_a_real_database(database: Database) -> None:
    drops = Drops()
    with database.begin() as connection:
        row = {"route": "support", "candidate": "support@b", "stable": "support@a", "plan": {}, "phase": "ramp"}
        connection.execute(tables.rollouts.insert().values(**row, started_at=1.0, phase_since=1.0, state={}))
    writer = EventWriter(ResponseStore(database), drops)
    numbers = '{"failures": 5}'
    assert writer.record(EventKind.ROLLOUT, (1, 1.0, "breaker", "worker 7", "5 in a row", numbers))
    assert writer.record(EventKind.ROLLOUT, (99, 1.0, "breaker", "worker 7", "of no rollout", numbers))
    assert writer.record(EventKind.PAIR, (1, "id-1", 1.0, b"12345678", "text.tokens", 3.0, 4.0, 2))
    assert writer.record(EventKind.SCORE, ("id-1", 1.0, 1, b"12345678", "exact", 0.5))
    writer.close(60.0)
    with database.read() as connection:
        assert connection.execute(select(tables.rollout_events.c.numbers)).scalars().all() == [{"failures": 5}]
        assert connection.execute(select(tables.shadow_pairs.c.candidate)).scalars().all() == [4.0]
        assert connection.execute(select(tables.scores.c.value)).scalars().all() == [0.5]
    assert drops == {"rollout": 1}


def test_rows_reach_a_real_database_in_order(database: Database) -> None:
    drops = Drops()
    writer = EventWriter(ResponseStore(database), drops)
    for number in range(1500):
        writer.response(response(number))
    assert all(writer.feedback(feedback(number)) for number in range(3))
    assert writer.close(60.0) == 0
    with database.read() as connection:
        ids = connection.execute(select(tables.responses.c.response_id).order_by(tables.responses.c.id)).scalars().all()
        assert ids == [f"id-{number}" for number in range(1500)]
        assert connection.execute(select(func.count()).select_from(tables.feedback)).scalar() == 3
    assert not drops


def test_a_row_the_database_cannot_hold_does_not_cost_the_others(database: Database) -> None:
    drops = Drops()
    writer = EventWriter(ResponseStore(database), drops)
    writer.response(response(1))
    writer.response(response(2, input_tokens=10**30))
    writer.response(response(3, duration=None))
    writer.response((1, 2))
    writer.response(response(4))
    writer.close(60.0)
    with database.read() as connection:
        ids = connection.execute(select(tables.responses.c.response_id).order_by(tables.responses.c.id)).scalars().all()
    assert ids == ["id-1", "id-4"]
    assert drops == {"response": 3}


def test_while_the_database_is_away_rows_wait_and_then_arrive_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LONGEST_PAUSE", 0.1)
    store, drops = Store(), Drops()
    store.away.set()
    writer = EventWriter(store, drops)
    for number in range(1200):
        writer.response(response(number))
    writer.feedback(feedback())
    soon(lambda: store.tries > 3)
    assert store.responses == []
    store.away.clear()
    soon(lambda: len(store.responses) == 1200 and len(store.feedback) == 1)
    assert [row[0] for row in store.responses] == [f"id-{number}" for number in range(1200)]
    assert writer.close(60.0) == 0
    assert not drops


def test_memory_is_bounded_and_every_drop_is_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    store, drops = Store(), Drops()
    store.away.set()
    writer = EventWriter(store, drops, capacity=100)
    join = writer._thread.join
    monkeypatch.setattr(writer._thread, "join", lambda _seconds: join(PATIENCE))  # it may be scheduled late
    accepted = 0
    for number in range(1000):
        writer.response(response(number))
        accepted += writer.feedback(feedback(number))
    dropped_feedback = 1000 - accepted
    assert drops["feedback"] == dropped_feedback
    assert 100 <= accepted <= 100 + events.BATCH
    writer.close(0.3)
    assert drops["response"] == 1000
    assert drops["feedback"] == 1000
    assert store.responses == store.feedback == []


def test_what_arrives_just_before_closing_is_written() -> None:
    store, drops = Store(), Drops()
    writer = EventWriter(store, drops)
    for number in range(5 * events.BATCH):
        writer.response(response(number))
    assert writer.close(60.0) == 0
    assert len(store.responses) == 5 * events.BATCH


def test_closing_meets_its_deadline_while_the_store_hangs() -> None:
    release = threading.Event()

    class Hanging(Store):
        def append(self, table: str, rows: Sequence[Any]) -> None:
            release.wait(60)

    drops = Drops()
    writer = EventWriter(Hanging(), drops)
    for number in range(3 * events.BATCH):
        writer.response(response(number))
    started = time.monotonic()
    lost = writer.close(0.2)
    assert time.monotonic() - started < 30
    release.set()
    assert lost >= 2 * events.BATCH
    writer._thread.join(30)


KILLED = """
import sys
from pathlib import Path
from adapters.database import open_database
from adapters.response_store import ResponseStore
from adapters.settings import DatabaseSettings
from gateway.data_plane.events import EventWriter
writer = EventWriter(ResponseStore(open_database(DatabaseSettings(), Path(sys.argv[1]))), print)
number = 0
while True:
    for _ in range(20):
        writer.response((f"id-{number}", 1.0, 1, b"12345678", "chat", 200, "ok", None, 0.5, 3, None, 0))
        number += 1
    print(number, flush=True)
    import time
    time.sleep(0.01)
"""


def test_kill_9_loses_at_most_the_last_moment_and_damages_nothing(tmp_path: Path) -> None:
    from adapters.database import open_database
    from adapters.settings import DatabaseSettings

    database = open_database(DatabaseSettings(), tmp_path)
    process = start_python(KILLED, tmp_path)
    assert process.stdout is not None
    ids = select(tables.responses.c.response_id).order_by(tables.responses.c.id)

    def stored() -> list[str]:
        with database.read() as connection:
            return list(connection.execute(ids).scalars())

    while int(process.stdout.readline()) < 2000:
        pass
    before = soon(lambda: process.stdout.readline() and len(found := stored()) > 500 and found)
    kill(process)
    after = stored()
    assert after[: len(before)] == before and after == [f"id-{number}" for number in range(len(after))]
    database.close()
