"""The client of the guard against servers that are slow, dead, wrong or busy: always an answer, in time, and no pile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.data_plane.screening import circuit
from gateway.data_plane.screening.circuit import FAILURES, Circuit
from gateway.data_plane.screening.guard_client import GuardClient
from gateway.data_plane.screening.policy import Judged
from tests.support.ports import free_port
from tests.support.serving import Asked, json_answer, scripted_engine
from tests.support.waiting import PATIENCE

ITEM = {"role": "user", "messages": []}


def verdicts(asked: Asked, score: float = 0.1) -> dict[str, Any]:
    rows = [{"id": item["id"], "unsafe": False, "score": score, "categories": [], "unavailable": False, "reason": "",
             "scores": {}} for item in asked.json["items"]]  # fmt: skip
    return {"results": rows}


async def good(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(verdicts(asked)))


@asynccontextmanager
async def asking(
    script: Any, *, timeout: float = PATIENCE, concurrency: int = 4
) -> AsyncIterator[tuple[GuardClient, Ask]]:
    async with scripted_engine(script) as url:
        client = GuardClient(url, "key", timeout, concurrency)
        yield client, lambda count=1: _asked(client, count)
        client.close()


Ask = Callable[..., Awaitable[list[Judged]]]


async def _asked(client: GuardClient, count: int = 1) -> list[Judged]:
    found: asyncio.Future[list[Judged]] = asyncio.get_running_loop().create_future()
    client.ask([ITEM] * count, found.set_result)
    assert not found.done()
    return await asyncio.wait_for(found, 2 * PATIENCE)  # longer than a client waits by itself


async def test_verdicts_in_order_over_kept_connections() -> None:
    seen: list[str] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        seen.append(f"{asked.path} {asked.headers['authorization']}")
        await good(asked, writer)

    async with asking(script) as (client, ask):
        assert [one.score for one in await ask(3)] == [0.1] * 3
        assert [one.score for one in await ask()] == [0.1]
        assert seen == ["/v1/screen Bearer key"] * 2 and client.in_flight == 0


@pytest.mark.parametrize(("answer", "reason", "away"), [
    (json_answer({"results": []}), "the guard's answer is none", True),
    (json_answer(b"<html>"), "the guard's answer is none", True),
    (json_answer({}, "401 Unauthorized"), "the guard refuses to answer", True),
    (json_answer({}, "500 Oops"), "the guard refuses to answer", True),
    (json_answer({}, "503 Busy"), "the guard has too much to do", True),
    (json_answer({}, "413 Large"), "the guard cannot read it", False),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "the guard cannot be reached", True),
    (b"rubbish\r\n\r\n", "the guard cannot be reached", True),
], ids=["no results", "html", "wrong key", "500", "503", "413", "cut", "no http"])  # fmt: skip
async def test_anything_else_is_no_verdict(answer: bytes, reason: str, away: bool) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()
        raise ConnectionError

    async with asking(script) as (client, ask):
        found = await ask(2)
        assert [(one.unavailable, one.reason, one.away) for one in found] == [(True, reason, away)] * 2
        assert client.in_flight == 0


async def test_a_silent_guard_is_asked_no_more_than_allowed_and_then_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "PAUSES", (3.0, 3.0))
    silent, most, now, heard = True, 0, 0, 0

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now, heard
        heard += 1
        now += 1
        most = max(most, now)
        if silent:
            await asked.reader.read(1)  # until the client gives up
            now -= 1
            raise ConnectionError
        await good(asked, writer)
        now -= 1

    async with asking(script, timeout=0.3, concurrency=2) as (client, ask):
        found = await asyncio.gather(*(ask() for _ in range(40)))
        assert heard <= 4 and all(one[0].unavailable for one in found)  # the time in the queue counts, too
        reasons = {one[0].reason for one in found}
        assert "too many texts wait for the guard" in reasons and "the guard took too long" in reasons
        assert most == 2 and client.in_flight == 0
        while not client.circuit.open:
            await ask()
        before = heard
        assert (await ask())[0].reason == "the guard is away" and heard == before
        silent = False
        while (await ask())[0].unavailable:
            await asyncio.sleep(0.05)
        assert not client.circuit.open


async def test_answers_go_before_prompts() -> None:
    order: list[str] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        order.append(asked.json["items"][0]["role"])
        await good(asked, writer)

    async with asking(script, concurrency=1) as (client, ask):
        for role in ("user", "user", "user", "assistant"):
            client.ask([ITEM | {"role": role}], lambda _: None, urgent=role == "assistant")
        await ask()
        assert order == ["user", "assistant", "user", "user", "user"]


async def test_a_dead_guard_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "PAUSES", (PATIENCE, PATIENCE))  # or the last of them might try again
    client = GuardClient(f"http://127.0.0.1:{free_port()}", "", 5.0, 4)
    found = [(await _asked(client))[0] for _ in range(10)]
    assert [one.reason for one in found[FAILURES:]] == ["the guard is away"] * (10 - FAILURES)
    client.close()


async def test_closing_answers_everybody_and_cancelling_nobody() -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asked.reader.read(1)
        raise ConnectionError

    async with asking(script, concurrency=1) as (client, _):
        found: list[list[Judged]] = []
        asks = [client.ask([ITEM], found.append) for _ in range(4)]
        await asyncio.sleep(0.05)
        asks[0].cancel()  # under way: the next takes its place
        asks[3].cancel()  # waiting
        assert client.in_flight == 2
        client.close()
        assert [one[0].reason for one in found] == ["the gateway is shutting down"] * 2 and client.in_flight == 0


async def test_more_texts_than_one_request_may_have() -> None:
    async with asking(good) as (_, ask):
        found = await ask(257)
        assert len(found) == 257 and "more than 256" in found[0].reason and not found[0].away
        assert json.dumps(found[0].reason)


def test_the_circuit_lets_one_try_and_doubles_its_pause() -> None:
    one = Circuit()
    for _ in range(FAILURES):
        assert one.admits(0.0)
        one.failed("gone", 0.0)
    assert not one.admits(0.2) and one.admits(0.3) and not one.admits(0.3)
    one.failed("gone", 0.3)
    assert not one.admits(0.7) and one.admits(0.9)
    one.gave_up()
    assert one.admits(0.9)
    one.worked()
    assert not one.open and one.admits(0.9) and one.admits(0.9)
