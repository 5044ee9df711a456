"""Records of responses and feedback."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from adapters import response_store, retention, tables
from adapters.errors import DatabaseError
from adapters.response_store import ResponseStore

IDS = itertools.count()


def response(at=1.0, **changes):
    return {
        "response_id": f"id-{next(IDS)}", "at": at, "assignment": 1, "unit": b"12345678", "endpoint": "chat", "status": 200,
        "outcome": "ok", "ttft": 0.1, "duration": 0.5, "input_tokens": 3, "output_tokens": None, **changes,
    }  # fmt: skip


def feedback(at=1.0, **changes):
    return {
        "response_id": "chatcmpl-1", "at": at, "assignment": 1, "unit": b"12345678", "score": 0.5, "kind": "thumb",
        "comment": None, **changes,
    }  # fmt: skip


def test_the_columns_are_those_of_the_tables():
    for name, columns in response_store.COLUMNS.items():
        assert {*columns, "id"} == set(tables.metadata.tables[name].columns.keys())


def rows(database, table):
    with database.read() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]


@pytest.fixture
def store(database):
    return ResponseStore(database)


def test_rows_come_back_as_they_were(database, store):
    given = [response(at=float(n)) for n in range(3)]
    store.insert_responses(given)
    store.insert_feedback([feedback()])
    store.insert_responses([])
    found = rows(database, tables.responses)
    assert [row["at"] for row in found] == [0.0, 1.0, 2.0]
    assert {key: value for key, value in found[0].items() if key != "id"} == given[0] | {"flags": 0}
    assert rows(database, tables.feedback)[0]["score"] == 0.5


@pytest.mark.parametrize(
    ("text", "stored"), [(None, None), ("", ""), ("gut 👍", "gut 👍"), ("a\0b", "ab"), ("half \ud83d", "half ?")]
)
def test_any_comment_can_be_stored(database, store, text, stored):
    store.insert_feedback([feedback(comment=text), feedback()])
    assert [row["comment"] for row in rows(database, tables.feedback)] == [stored, None]


def test_a_batch_is_stored_whole_or_not_at_all(database, store):
    with pytest.raises(DatabaseError):
        store.insert_responses([response(), response(status=None)])
    assert rows(database, tables.responses) == []


def score(response_id, metric, value=0.5):
    return (response_id, 1.0, 1, b"12345678", metric, value)


def test_a_repeated_write_adds_only_what_is_not_there(database, store):
    """A worker whose connection broke during the commit cannot know whether its batch arrived."""
    first, second, third = response(), response(), response()
    store.insert_responses([first, second])
    store.insert_responses([first, second, third])
    store.insert_responses([third, third])
    found = [row["response_id"] for row in rows(database, tables.responses)]
    assert found == [first["response_id"], second["response_id"], third["response_id"]]
    store.append("scores", [score("a", "exact"), score("a", "text.tokens"), score("b", "exact")])
    store.append("scores", [score("a", "exact"), score("c", "exact", 0.25)])
    scored = [(row["response_id"], row["metric"], row["value"]) for row in rows(database, tables.scores)]
    assert scored == [("a", "exact", 0.5), ("a", "text.tokens", 0.5), ("b", "exact", 0.5), ("c", "exact", 0.25)]


def test_a_repeated_write_with_a_row_that_cannot_be_stored_is_refused(database, store):
    known = response()
    store.insert_responses([known])
    with pytest.raises(DatabaseError) as refused:
        store.insert_responses([known, response(), response(status=None)])
    assert isinstance(refused.value.__cause__, IntegrityError)
    assert len(rows(database, tables.responses)) == 1


@pytest.mark.parametrize("count", [20, 45])
@pytest.mark.parametrize("wrong", [0, 18])
def test_rows_that_are_written_together_stand_or_fall_together(database, store, count, wrong):
    batch = [response(response_id=f"id-{n}", at=float(n)) for n in range(count)]
    with pytest.raises(DatabaseError) as refused:
        store.insert_responses([*batch[:wrong], response(response_id="wrong", status=None), *batch[wrong + 1 :]])
    assert isinstance(refused.value.__cause__, IntegrityError)
    assert rows(database, tables.responses) == []
    store.insert_responses([*batch, batch[wrong]])
    store.insert_responses(batch)
    assert [row["at"] for row in rows(database, tables.responses)] == [float(n) for n in range(count)]


def test_a_big_batch(database, store):
    store.insert_responses([response() for _ in range(20_000)])
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.responses)).scalar() == 20_000


def test_pruning_deletes_what_is_old_and_only_that(database, store, monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 10)
    store.insert_responses([response(at=float(n)) for n in range(35)])
    store.insert_feedback([feedback(at=float(n)) for n in (1, 30, 2)])
    assert store.prune(before=25.0) == 25 + 2
    assert [row["at"] for row in rows(database, tables.responses)] == [float(n) for n in range(25, 35)]
    assert [row["at"] for row in rows(database, tables.feedback)] == [30.0]
    assert store.prune(before=25.0) == 0
    assert store.prune(before=1e12) == 11


def test_rows_out_of_order_stay_until_they_are_old(database, store, monkeypatch):
    """Workers write in batches, so times are not quite in the order of ids."""
    monkeypatch.setattr(retention, "CHUNK", 4)
    store.insert_responses([response(at=float(at)) for at in (5, 1, 9, 2, 8, 3)])
    store.prune(before=4.0)
    assert [row["at"] for row in rows(database, tables.responses)] == [5.0, 9.0, 8.0]
