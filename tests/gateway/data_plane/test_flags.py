"""What a record says about an answer: empty, non-finite, without unit, or the engine's own fall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters import tables
from adapters.types import Flag
from gateway.data_plane.call import Timeouts
from gateway.data_plane.sink import Failure
from gateway.data_plane.upstreams import SILENCE, Upstream
from tests.support.rollouts import rows
from tests.support.serving import (
    ASK,
    CHAT,
    SSE_HEAD,
    Asked,
    client,
    completion,
    event,
    http_chunk,
    json_answer,
    obliging,
    routed,
    scripted_engine,
    serving,
)
from tests.support.waiting import eventually

DONE = http_chunk(b"data: [DONE]\n\n") + http_chunk(b"")
NAN = {"error": {"message": "Out of range float values are not JSON compliant: nan", "code": 400}}
DEAD = {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "code": 500}}


async def empty(asked: Asked, writer: asyncio.StreamWriter) -> None:
    if asked.json.get("stream"):
        writer.write(SSE_HEAD + event(asked, "") + event(asked, "") + event(asked, None, usage=True) + DONE)
    else:
        writer.write(json_answer(completion(asked, "")))


async def calls_a_tool(asked: Asked, writer: asyncio.StreamWriter) -> None:
    body = completion(asked, "")
    body["choices"][0]["message"] |= {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}
    writer.write(json_answer(body))


async def not_a_number(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(NAN, "400 Bad Request"))


async def core_died(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(DEAD, "500 Internal Server Error"))


async def breaks_off(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD + event(asked, "hel"))
    await writer.drain()
    raise ConnectionError


async def stops_early(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(SSE_HEAD + event(asked, "hel") + http_chunk(b""))


@pytest.fixture
def gateway(tmp_path: Path) -> Any:
    with serving(tmp_path) as started:
        yield started


CASES: list[tuple[Callable[..., Any], dict[str, Any], int]] = [
    (empty, {}, Flag.EMPTY), (empty, {"stream": True}, Flag.EMPTY), (calls_a_tool, {}, 0), (obliging, {}, 0),
    (obliging, {"stream": True, "user": ""}, Flag.NO_UNIT), (empty, {"user": ""}, Flag.EMPTY | Flag.NO_UNIT),
    (not_a_number, {}, Flag.NON_FINITE), (core_died, {}, Flag.ENGINE_DOWN),
    # The engine goes on listening: it was this answer, not the engine.
    (breaks_off, {"stream": True}, 0), (stops_early, {"stream": True}, 0),
]  # fmt: skip


async def test_an_answers_flags(gateway: Any) -> None:
    async def as_asked(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await CASES[asked.json["seed"]][0](asked, writer)

    outcomes: list[str] = []
    asked = 0
    gateway.start()
    async with scripted_engine(as_asked) as url, client(gateway) as http:
        await routed(gateway, {"e0": url})
        for number, (_, fields, expected) in enumerate(CASES):
            for _ in range(3):  # a worker that stood still while it looked takes any engine for gone
                await http.post(CHAT, json=ASK | {"user": "u1", "seed": number} | fields)
                asked += 1
                row = (await eventually(partial(_records, gateway, asked)))[-1]
                if row["flags"] == expected:
                    break
            assert row["flags"] == expected, CASES[number]
            outcomes.append(row["outcome"])
    truncated = [script for (script, _, _), outcome in zip(CASES, outcomes, strict=True) if outcome == "truncated"]
    assert truncated == [breaks_off, stops_early]


def _records(gateway: Any, count: int) -> list[dict[str, Any]]:
    """The records, once there are so many."""
    found = rows(gateway, tables.responses)
    return found if len(found) >= count else []


async def test_an_engine_that_falls_in_mid_stream_is_not_the_versions_fault(gateway: Any) -> None:
    gateway.start()
    falling, begun = asyncio.Event(), 0

    async def falls(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        writer.write(SSE_HEAD + event(asked, "hel"))
        await writer.drain()
        begun += 1
        await falling.wait()
        raise ConnectionError

    async with client(gateway) as http:
        async with scripted_engine(falls) as url:
            await routed(gateway, {"e0": url})
            asked = [asyncio.create_task(http.post(CHAT, json=ASK | {"stream": True})) for _ in range(4)]
            await eventually(lambda: begun == 4)
        falling.set()  # the listener has closed: nobody can connect any more
        await asyncio.gather(*asked)
        refused = await http.post(CHAT, json=ASK)
    assert refused.status_code == 503
    found = await eventually(partial(_records, gateway, 5))
    assert sorted(r["outcome"] for r in found) == ["error"] + ["truncated"] * 4
    assert all(r["flags"] & Flag.ENGINE_DOWN for r in found)


async def test_silence_is_the_engines_when_nobody_else_hears_from_it() -> None:
    upstream = Upstream("e0", "http://127.0.0.1:9", "", Timeouts())
    gone: list[bool] = []
    upstream.succeeded()
    upstream.check(Failure.IDLE, gone.append)
    upstream._heard -= SILENCE + 1
    upstream.check(Failure.FIRST_BYTE, gone.append)
    upstream.check(Failure.TRUNCATED, gone.append)  # nobody listens on port 9
    await eventually(lambda: len(gone) == 3)
    assert gone == [False, True, True]
    upstream.close()
