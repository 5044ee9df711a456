"""Old records go, little by little; evidence that somebody still needs stays. The clock is the argument."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update

from adapters import retention, tables
from adapters.database import Database, open_database
from adapters.fleet_store import FleetStore
from adapters.response_store import ResponseStore
from adapters.retention import COVARIATES, Retention
from adapters.settings import DatabaseSettings

DAY = 86400.0
NOW = 400 * DAY
RETENTION = 30 * DAY
OLD, YOUNG = NOW - RETENTION - DAY, NOW - DAY
UNIT = b"12345678"


class Made:
    """Rows in a database, and what is left of them."""

    def __init__(self, database: Database) -> None:
        self.database, self.store, self.fleet = database, ResponseStore(database), FleetStore(database)
        self.pauses: list[float] = []
        self.retention = Retention(database, self.pauses.append)
        self._number = 0

    def answers(self, assignment: int, *times: float) -> list[str]:
        ids = [f"x-{self._number + n}" for n in range(len(times))]
        self._number += len(times)
        rows = [(name, at, assignment, UNIT, "chat", 200, "ok", 0.1, 0.5, 3, 4, 0)
                for name, at in zip(ids, times, strict=True)]  # fmt: skip
        self.store.append("responses", rows)
        return ids

    def word(self, response: str, at: float, assignment: int) -> None:
        self.store.append("feedback", [(response, at, assignment, UNIT, 0.5, "thumb", None)])

    def score(self, response: str, at: float, assignment: int) -> None:
        self.store.append("scores", [(response, at, assignment, UNIT, "exact", 0.5)])

    def rollout(self, route: str = "r", started: float = YOUNG, ended: float | None = None) -> int:
        row = {"route": route, "candidate": "c", "stable": "s", "plan": {}, "phase": "ramp", "state": {}}
        with self.database.begin() as connection:
            done = connection.execute(
                tables.rollouts.insert().values(**row, started_at=started, phase_since=started, ended_at=ended)
            )
            assert done.inserted_primary_key is not None
            return int(done.inserted_primary_key[0])

    def prune(self, now: float = NOW) -> int:
        return self.retention.prune(now - RETENTION)

    def left(self, name: str) -> list[float]:
        table = tables.metadata.tables[name]
        with self.database.read() as connection:
            return list(connection.execute(select(table.c.at).order_by(table.c.id)).scalars())


@pytest.fixture
def made(database: Database, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(retention, "CHUNK", 4)
    return Made(database)


def test_what_is_old_goes_in_small_transactions_with_pauses(made: Made):
    ids = made.answers(1, *[OLD + n for n in range(9)], YOUNG, OLD + 20, YOUNG)
    made.score(ids[0], OLD, 1)
    made.score(ids[-1], YOUNG, 1)
    assert made.prune() == 11
    assert made.left("responses") == [YOUNG, YOUNG] and made.left("scores") == [YOUNG]
    assert len(made.pauses) >= 4 and all(pause > 0 for pause in made.pauses)
    assert made.prune() == 0
    assert made.prune(NOW + RETENTION) == 3 and made.left("responses") == []


def test_it_stops_when_somebody_has_had_enough_and_goes_on_later(made: Made):
    made.answers(1, *[OLD] * 20)
    answers = iter([False, True])
    assert made.retention.prune(NOW - RETENTION, lambda: next(answers, True)) == 4
    assert made.prune() == 16


def test_a_young_row_among_old_ones_is_found_when_it_is_old(made: Made):
    made.answers(1, OLD, NOW - RETENTION + 5, OLD + 1, OLD + 2, OLD + 3, OLD + 4)
    assert made.prune() == 5
    assert made.prune(NOW + 10) == 1


def test_a_route_with_an_open_rollout_keeps_what_it_is_judged_by(made: Made):
    mine = made.fleet.assignment("r", "r@aaaaaaaaaaaa", "stable", 1.0)
    other = made.fleet.assignment("q", "q@aaaaaaaaaaaa", "stable", 1.0)
    started = OLD + 5
    rollout = made.rollout("r", started)
    arm = made.fleet.assignment("r", "r@bbbbbbbbbbbb", "candidate", 0.1, rollout=rollout, step=1)
    before = started - COVARIATES
    for assignment in (mine, other, arm):
        for response in made.answers(assignment, before - 1, before + 1, OLD + 6):
            made.score(response, OLD + 6, assignment)
    made.store.append("shadow_pairs", [(rollout, "x-1", OLD, UNIT, "m", 1.0, 2.0, arm)])
    for _ in range(2):
        made.prune()
        assert made.left("responses") == [before + 1, OLD + 6, before + 1, OLD + 6]
        assert len(made.left("scores")) == 6 and len(made.left("shadow_pairs")) == 1
    with made.database.begin() as connection:
        connection.execute(update(tables.rollouts).values(ended_at=YOUNG))
    made.prune()
    assert [made.left(name) for name in ("responses", "scores", "shadow_pairs")] == [[], [], []]


def test_what_reward_collapse_is_calibrated_on_stays(made: Made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "BASELINE", 3)
    serves = made.fleet.assignment("r", "r@aaaaaaaaaaaa", "stable", 1.0)
    gone = made.fleet.assignment("r", "r@bbbbbbbbbbbb", "stable", 1.0)
    with made.database.begin() as connection:
        row = {"route": "r", "digest": "0" * 64, "kind": "adapter", "stage": "released", "created_at": 0.0, "rank": 8,
               "size_bytes": 1, "base_digest": "", "manifest": {}, "lineage": {}}  # fmt: skip
        connection.execute(tables.versions.insert().values(name="r@aaaaaaaaaaaa", **row))
        connection.execute(tables.routes.insert().values(name="r", version="r@aaaaaaaaaaaa"))
    for assignment in (serves, gone):
        for response in made.answers(assignment, *[OLD + n for n in range(5)]):
            made.word(response, OLD, assignment)
            made.score(response, OLD, assignment)
    made.prune()
    assert made.left("responses") == []
    assert len(made.left("feedback")) == 3 and len(made.left("scores")) == 3
    with made.database.read() as connection:
        kept = set(connection.execute(select(tables.scores.c.response_id)).scalars())
        assert kept == set(connection.execute(select(tables.feedback.c.response_id)).scalars())
    assert made.prune() == 0


def test_bad_events_go_with_rollouts_that_ended_long_ago(made: Made):
    numbers = [made.rollout("r", OLD, ended) for ended in (OLD, YOUNG)] + [made.rollout("r", OLD)]
    rows = [
        {"rollout": number, "metric": "error", "unit": bytes([n]), "candidate": 1, "share": 0.5, "at": OLD,
         "response_id": "x"}
        for number in numbers for n in range(9)
    ]  # fmt: skip
    with made.database.begin() as connection:
        connection.execute(tables.bad_events.insert(), rows)
    assert made.prune() == 9
    with made.database.read() as connection:
        assert set(connection.execute(select(tables.bad_events.c.rollout)).scalars()) == set(numbers[1:])
        assert connection.execute(select(func.count()).select_from(tables.rollouts)).scalar() == 3


def test_a_file_that_is_mostly_empty_gets_smaller(data_dir, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "_PAGES", 50)
    database = open_database(DatabaseSettings(), data_dir)
    made = Made(database)
    made.answers(1, *[OLD] * 20_000)
    assert made.retention.shrink() == 0
    made.prune()
    given = made.retention.shrink()
    assert given > 1_000_000
    assert made.retention.shrink() == 0
    made.answers(1, YOUNG)
    assert made.left("responses") == [YOUNG]
    database.close()
    assert (data_dir / "understudy.db").stat().st_size < 2_500_000
