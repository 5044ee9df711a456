"""The circuit breaker: each worker by itself, at once, and only where stable is served well by the same engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters import tables
from adapters.snapshot import Arm, RouteState
from adapters.types import Flag
from gateway.data_plane.breaker import RECENT, Breakers, Guard
from gateway.data_plane.exchange import Finished
from gateway.data_plane.routing import Target
from monitors.conventions import Outcome
from tests.support.exchanges import finished, upstream
from tests.support.rollouts import Published, rows
from tests.support.serving import (
    ASK,
    CHAT,
    OTHER,
    STABLE,
    Asked,
    client,
    json_answer,
    obliging,
    scripted_engine,
    serving,
)
from tests.support.waiting import eventually


def done(arm: str, outcome: Outcome = Outcome.OK, engine: str = "e0", status: int = 200, flags: int = 0) -> Finished:
    assignment = {"stable": 1, "candidate": 2, "holdout": 3}[arm]
    target = Target("support", "v", arm, assignment, b'"m"', (b"", b""), (), ())
    by = upstream(engine) if engine else None
    return finished(target, outcome=outcome, status=status, flags=flags, upstream=by)


def guard() -> Guard:
    return Guard("support", 7, 3)


BAD = done("candidate", Outcome.ERROR, status=502)


def test_it_trips_after_so_many_failures_in_a_row_and_once() -> None:
    found = guard()
    found.observe(done("stable"), 0.0)
    assert found.observe(BAD, 1.0) is None
    found.observe(done("candidate"), 1.0)  # one good answer begins the count anew
    assert [found.observe(BAD, 2.0) for _ in range(2)] == [None, None]
    found.observe(done("candidate", Outcome.CANCELLED), 2.0)  # says nothing
    found.observe(done("candidate", Outcome.ERROR, status=400), 2.0)  # the client's own fault
    trip = found.observe(done("candidate", Outcome.TRUNCATED), 2.0)
    assert trip is not None and (trip.rollout, trip.failures, trip.assignment) == (7, 3, 2)
    assert "3 failures in a row" in trip.reason and found.tripped == {2}
    assert [found.observe(BAD, 3.0) for _ in range(9)] == [None] * 9


@pytest.mark.parametrize("before", [
    [],  # stable was never served
    [(done("stable"), 100.0 - RECENT - 1)],  # long ago
    [(done("stable", engine="e1"), 99.0)],  # by another engine
    [(done("stable"), 98.0), (done("stable", Outcome.ERROR, status=502), 99.0)],  # badly of late
])  # fmt: skip
def test_failures_of_the_engine_are_not_the_candidates(before: list[tuple[Finished, float]]) -> None:
    found = guard()
    for answer, at in before:
        found.observe(answer, at)
    assert [found.observe(BAD, 100.0) for _ in range(9)] == [None] * 9


def test_an_engine_that_is_gone_and_an_engine_nobody_found_do_not_count() -> None:
    found = guard()
    found.observe(done("stable"), 0.0)
    for answer in (done("candidate", Outcome.ERROR, status=503, flags=Flag.ENGINE_DOWN),
                   done("candidate", Outcome.ERROR, engine="", status=503)):  # fmt: skip
        assert [found.observe(answer, 1.0) for _ in range(9)] == [None] * 9
    for _ in range(9):  # nor is stable ever taken away
        found.observe(done("stable", Outcome.ERROR, status=502), 1.0)
        found.observe(done("holdout", Outcome.ERROR, status=502), 1.0)
    assert found.tripped == set()


def state(candidate: int | None, rollout: int = 7, breaker: int = 3) -> RouteState:
    low = 0.5 if candidate else 0.0
    arms = (Arm(1, "stable", "s", "s", low, 1.0, ()),)
    if candidate:
        arms = (Arm(candidate, "candidate", "c", "c", 0.0, 0.5, ()), *arms)
    return RouteState("support", "salt", arms, rollout, breaker=breaker)


def test_what_has_tripped_stays_so_until_the_arm_is_another_one() -> None:
    breakers = Breakers()
    breakers.adopt([state(2)])
    found = breakers.guard(state(2))
    assert found is not None
    found.tripped.add(2)
    breakers.adopt([state(2)])
    assert [breakers.serving(state(2))(arm).version for arm in state(2).arms] == ["s", "s"]
    breakers.adopt([state(5)])  # another share
    assert [breakers.serving(state(5))(arm).version for arm in state(5).arms] == ["c", "s"]
    found.tripped.add(5)
    breakers.adopt([state(None)])  # the candidate was taken away, and comes back
    breakers.adopt([state(5)])
    assert [breakers.serving(state(5))(arm).version for arm in state(5).arms] == ["c", "s"]
    breakers.adopt([state(2, rollout=0)])
    assert breakers.guard(state(2, rollout=0)) is None
    breakers.adopt([state(2, breaker=0)])
    assert breakers.guard(state(2, breaker=0)) is None


async def candidate_fails(asked: Asked, writer: asyncio.StreamWriter) -> None:
    if asked.json["model"] == OTHER:
        writer.write(json_answer({"error": {"message": "boom", "code": 500}}, "500 Internal Server Error"))
    else:
        await obliging(asked, writer)


async def test_a_worker_takes_the_candidate_back_by_itself_and_says_so(tmp_path: Path) -> None:
    async with scripted_engine(candidate_fails) as url:
        with serving(tmp_path) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.5, breaker=3)
            await published.settled()
            async with client(gateway) as http:
                answers = [await http.post(CHAT, json=ASK | {"user": f"u{n % 40}"}) for n in range(120)]
                tripped = await eventually(lambda: rows(gateway, tables.rollout_events))
                trips = {"route": "support", "version": OTHER}
                assert await eventually(lambda: gateway.metric("understudy_breaker_trips_total", **trips)) == 1
                after = [await http.post(CHAT, json=ASK | {"user": f"u{n}"}) for n in range(40)]
                served = {a["id"]: a["arm"] for a in rows(gateway, tables.assignments)}
                published.step = 1  # another share, as after an operator's decision: it is tried again
                published.publish(0.6, breaker=3)
                await published.settled()
                again = [await http.post(CHAT, json=ASK | {"user": f"u{n}"}) for n in range(40)]
            stored = rows(gateway, tables.responses)
    assert {answer.status_code for answer in after} == {200}
    bad = [answer for answer in answers if answer.status_code != 200]
    sound = next(n for n, answer in enumerate(answers) if answer.status_code == 200)  # before that nothing counts
    assert len(bad) == sound + 3 and {answer.headers["x-understudy-version"] for answer in bad} == {OTHER}
    assert {answer.headers["x-understudy-version"] for answer in answers if answer not in bad} == {STABLE}
    assert [answer.status_code for answer in again].count(502) == 3
    event = tripped[0]
    assert (event["rollout"], event["kind"]) == (published.rollout, "breaker")
    assert event["numbers"]["failures"] == 3 and event["numbers"]["engine"] == "e0"
    # What stable answered instead is stable's own, in the records too.
    assert {served[r["assignment"]] for r in stored[:160] if r["status"] == 200} == {"stable"}
