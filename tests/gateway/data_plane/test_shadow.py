"""The shadow over real sockets: mirrored, compared, bounded, and harmless when the candidate is not."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters import tables
from adapters.types import Flag
from gateway.data_plane import shadow as shadow_module
from tests.support.rollouts import Published, rows
from tests.support.serving import (
    ASK,
    CHAT,
    OTHER,
    STABLE,
    Asked,
    adopted,
    client,
    completion,
    json_answer,
    obliging,
    scripted_engine,
    serving,
)
from tests.support.waiting import PATIENCE, eventually

LONG = "the cat sat on the mat " * 12


class Engine:
    """Answers stable as vLLM would; `candidate` decides what becomes of the candidate's requests."""

    def __init__(self, candidate: Any) -> None:
        self.candidate = candidate
        self.seen: list[Asked] = []
        self.under_way = self.most = 0

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.json["model"] != OTHER:
            await obliging(asked, writer)
            return
        self.seen.append(asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.candidate(asked, writer)
        finally:
            self.under_way -= 1


async def answers(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(completion(asked, LONG)))


async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asked.reader.read(1)  # until the gateway gives up and closes the connection
    raise ConnectionError


async def fails(asked: Asked, writer: asyncio.StreamWriter) -> None:
    error = {"error": {"message": "Out of range float values are not JSON compliant: nan", "code": 400}}
    writer.write(json_answer(error, "400 Bad Request"))


async def hangs_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
    raise ConnectionError


async def ask(gateway: Any, count: int, **fields: Any) -> list[int]:
    async with client(gateway) as http:
        answers = [await http.post(CHAT, json=ASK | {"user": f"u{number}"} | fields) for number in range(count)]
    assert {answer.headers["x-understudy-version"] for answer in answers} == {STABLE}
    return [answer.status_code for answer in answers]


async def test_the_candidate_answers_the_same_prompts_and_the_pairs_are_compared(tmp_path: Path) -> None:
    engine = Engine(answers)
    async with scripted_engine(engine) as url:
        with serving(tmp_path) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.0, sample=1.0)
            await published.settled()
            assert await ask(gateway, 4) == [200] * 4
            assert await ask(gateway, 2, stream=True, n=1, seed=7) == [200] * 2
            await eventually(lambda: len({p["response_id"] for p in rows(gateway, tables.shadow_pairs)}) == 6)
            await eventually(lambda: len(rows(gateway, tables.responses)) == 12)  # pairs may be written before
            pairs = rows(gateway, tables.shadow_pairs)
            shadows = [r for r in rows(gateway, tables.responses) if r["flags"] & Flag.SHADOW]
            users = {r["response_id"]: r for r in rows(gateway, tables.responses) if not r["flags"] & Flag.SHADOW}
            assert gateway.metric("understudy_shadow_total", route="support", outcome="ok") == 6
            assert gateway.metric("understudy_requests_total", version=OTHER) == 0  # nobody was served by it
    bodies = [asked.json for asked in engine.seen]
    assert {body["model"] for body in bodies} == {OTHER}
    assert [body["messages"] for body in bodies] == [ASK["messages"]] * 6
    assert not any({"stream", "stream_options", "n"} & body.keys() for body in bodies)
    assert bodies[-1]["seed"] == 7 and bodies[-1]["priority"] == shadow_module.PRIORITY
    assert len(shadows) == 6 and {r["outcome"] for r in shadows} == {"ok"}
    assert {r["assignment"] for r in shadows}.isdisjoint({r["assignment"] for r in users.values()})
    assert {p["response_id"] for p in pairs} == users.keys()
    assert {p["rollout"] for p in pairs} == {published.rollout}
    by_metric = {p["metric"]: p for p in pairs}
    assert by_metric["text.characters"]["stable"] == len("hello")
    assert by_metric["text.characters"]["candidate"] == len(LONG)
    assert by_metric["text.tokens"]["stable"] == by_metric["text.tokens"]["candidate"] == 2  # the engine counted
    assert by_metric["text.duplicate_4gram"]["candidate"] > 0.8 > by_metric["text.duplicate_4gram"]["stable"]
    assert "text.distinct_4" not in by_metric  # a short answer has none


@pytest.mark.parametrize(("candidate", "outcome"), [(never, "timeout"), (fails, "failed"), (hangs_up, "failed")])
async def test_a_bad_candidate_cannot_hurt_users(tmp_path: Path, candidate: Any, outcome: str) -> None:
    engine = Engine(candidate)
    async with scripted_engine(engine) as url:
        with serving(tmp_path) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            timeout = 0.3 if candidate is never else PATIENCE  # a slow machine must not make the others late too
            published.publish(0.0, sample=1.0, concurrency=2, timeout=timeout)
            await published.settled()
            assert await ask(gateway, 14) == [200] * 14
            counted = await eventually(lambda: _settled(gateway, 14))
            assert gateway.metric("understudy_failovers_total") == 0
            bad = [r for r in rows(gateway, tables.responses) if r["flags"] & Flag.SHADOW]
    assert counted[outcome] >= 2 and "ok" not in counted
    assert engine.most <= 2 or candidate is never  # of the end of a cancelled one the engine hears later
    assert len(bad) >= counted[outcome] and all(r["status"] >= 500 for r in bad)
    # The engine serves stable: it is the candidate. A worker that stood still while it looked takes any for gone.
    assert sum(bool(r["flags"] & Flag.ENGINE_DOWN) for r in bad) <= (2 if candidate is hangs_up else 0)
    assert all(bool(r["flags"] & Flag.NON_FINITE) == (candidate is fails) for r in bad)


def _settled(gateway: Any, total: int) -> dict[str, float] | None:
    """Outcomes, once every mirrored request has one and its record is written."""
    names = ("ok", "failed", "timeout", "dropped", "shed")
    counted = {name: gateway.metric("understudy_shadow_total", outcome=name) for name in names}
    written = len([r for r in rows(gateway, tables.responses) if r["flags"] & Flag.SHADOW])
    ended = counted["ok"] + counted["failed"] + counted["timeout"]
    return {k: v for k, v in counted.items() if v} if sum(counted.values()) == total and written == ended else None


async def test_above_the_ceiling_nothing_is_mirrored_and_a_full_queue_drops(tmp_path: Path) -> None:
    engine = Engine(never)
    async with scripted_engine(engine) as url:
        with serving(tmp_path) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.0, sample=1.0, concurrency=1, timeout=600.0)
            await published.settled()
            await ask(gateway, 8)
            await eventually(lambda: engine.under_way == 1)
            dropped, shed = (partial(gateway.metric, "understudy_shadow_total", outcome=o) for o in ("dropped", "shed"))
            await eventually(lambda: dropped() >= 8 - 1 - shadow_module.WAITING)
            assert dropped() == 8 - 1 - shadow_module.WAITING
            published.publish(0.0, sample=1.0, concurrency=1, ceiling=0, timeout=600.0)
            await published.settled()
            # What is under way is given up too, and the candidate's connection closed.
            await eventually(lambda: engine.under_way == 0)
            await ask(gateway, 3)
            await eventually(lambda: shed() == 1 + shadow_module.WAITING + 3)
            assert len(engine.seen) == engine.most == 1


async def test_when_the_rollout_ends_its_shadow_ends(tmp_path: Path) -> None:
    engine = Engine(never)
    async with scripted_engine(engine) as url:
        with serving(tmp_path) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.0, sample=1.0, concurrency=3, timeout=600.0)
            await published.settled()
            await ask(gateway, 5)
            await eventually(lambda: engine.under_way == 3)
            gateway.publish({"e0": url})
            await eventually(lambda: engine.under_way == 0)
            await adopted(gateway)
            await ask(gateway, 2)
            assert len(engine.seen) == engine.most == 3  # as many at once as allowed
            assert gateway.stop() == 0


async def test_an_engine_without_priorities_is_not_sent_one(tmp_path: Path) -> None:
    engine = Engine(answers)
    async with scripted_engine(engine) as url:
        config = f'[engine]\nmanaged = false\nurls = ["{url}"]\n'
        with serving(tmp_path, config=config) as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.0, sample=1.0)
            await published.settled()
            await ask(gateway, 1)
            await eventually(lambda: engine.seen)
    assert "priority" not in json.loads(engine.seen[0].body)
