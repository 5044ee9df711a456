"""A crowd against a small gateway of the test's own, over real HTTP."""

from __future__ import annotations

import asyncio
import io
import itertools
import json

import httpx
from aiohttp import web

from tests.support.waiting import PATIENCE
from trainer.demo.crowd import Asked, Crowd, Habits, read
from trainer.demo.graders import solve


async def crowd_of(handler, habits: Habits, enough: int = 120) -> tuple[list[Asked], list[dict]]:
    """What the crowd saw, and the feedback it gave. It leaves after so many requests."""
    given: list[dict] = []
    out, stop, asked = io.StringIO(), asyncio.Event(), itertools.count(1)

    async def counted(request: web.Request) -> web.StreamResponse:
        if next(asked) >= enough:
            stop.set()
        return await handler(request)

    async def feedback(request: web.Request) -> web.Response:
        given.append(await request.json())
        return web.json_response({"status": "accepted"}, status=202)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", counted), web.post("/v1/feedback", feedback)])
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as http:
        await Crowd(http, habits, out).run(stop)
    await runner.cleanup()
    return [Asked(**json.loads(line)) for line in out.getvalue().splitlines()], given


def logprobs(text: str, body: dict) -> dict:
    """One token a letter, where they are asked for."""
    tokens = [{"token": letter, "logprob": -0.5, "top_logprobs": [{"token": letter, "logprob": -0.5}]} for letter in text]
    return {"logprobs": {"content": tokens}} if body.get("logprobs") else {}


async def right(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    text = solve(body["messages"][0]["content"])
    headers = {"x-understudy-version": "support@000000000001"}
    if not body["stream"]:
        choice = {"message": {"content": text}, **logprobs(text, body)}
        return web.json_response({"id": "whole", "choices": [choice]}, headers=headers)
    events = [{"id": "stream", "choices": [{"delta": {"content": part}, **logprobs(part, body)}]} for part in text]
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return web.Response(text=lines + "data: [DONE]\n\n", headers=headers, content_type="text/event-stream")


async def test_right_answers_are_liked():
    seen, given = await crowd_of(right, Habits(rate=100, feedback=1.0, seed=1))
    assert len(seen) >= 120 and all(asked.right and asked.status == 200 and not asked.error for asked in seen)
    assert {asked.response_id for asked in seen} == {"whole", "stream"}
    assert {asked.version for asked in seen} == {"support@000000000001"}
    assert len(given) == len(seen)
    assert sum(feedback["score"] for feedback in given) > 0.8 * len(given)


async def test_fixed_prompts_are_asked_greedily_written_down_and_not_rated():
    heard: list[dict] = []

    async def remembering(request: web.Request) -> web.StreamResponse:
        heard.append(await request.json())
        return await right(request)

    seen, given = await crowd_of(remembering, Habits(rate=150, feedback=1.0, seed=1, fixed=("reverse abc", "last abcd")))
    fixed = [asked for asked in seen if asked.fixed]
    assert {(asked.fixed, asked.text) for asked in fixed} == {("reverse abc", "cba"), ("last abcd", "d")}
    assert all("".join(token for token, _ in asked.places) == asked.text for asked in fixed)
    assert all(likely == {token: -0.5} for asked in fixed for token, likely in asked.places)
    assert all(asked.thumb is None for asked in fixed) and not any(asked.text for asked in seen if not asked.fixed)
    greedy = [body["messages"][0]["content"] for body in heard if body["temperature"] == 0]
    assert sorted(greedy) == sorted(asked.fixed for asked in fixed)
    assert len(given) == len(seen) - len(fixed) > len(fixed)


async def test_failures_are_seen_and_not_rated():
    async def broken(request: web.Request) -> web.Response:
        if (await request.json())["stream"]:
            return web.Response(text='data: {"error": {"message": "gone"}}\n\n', content_type="text/event-stream")
        return web.json_response({"error": {"message": "no"}}, status=503)

    seen, _ = await crowd_of(broken, Habits(rate=100, feedback=0.0, seed=2))
    assert {asked.status for asked in seen} == {200, 503}
    assert all(asked.error for asked in seen)
    assert not any(asked.right for asked in seen if asked.status != 200)


def test_a_file_cut_in_a_line_is_read_to_there(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"at": 1.0, "ended": 2.0, "user": "user-1", "status": 200}\n{"at": 3.0, "en')
    assert [asked.at for asked in read(path)] == [1.0]
    assert read(tmp_path / "none") == []
