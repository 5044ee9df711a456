"""What several workers count together, whoever is killed: a real `serve`, real sockets."""

import asyncio
import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from adapters import tables
from adapters.keys import create_key
from tests.support.serving import SSE_HEAD, STABLE, Asked, Gateway, event, obliging, scripted_engine, serving
from tests.support.waiting import PATIENCE, eventually

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def client(gateway: Gateway) -> httpx.AsyncClient:
    """Every request on a connection of its own, so that it may reach any worker."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, limits=limits)


async def ready(gateway: Gateway, url: str) -> None:
    """Published, and adopted by every worker (a fresh connection lands on any of them)."""
    gateway.publish({"e0": url})
    good = 0
    async with client(gateway) as http, asyncio.timeout(PATIENCE):
        while good < 20:
            good = good + 1 if (await http.get("/readyz")).status_code == 200 else 0
            await asyncio.sleep(0.02)


def workers(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    pid = gateway.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stored(gateway: Gateway) -> int:
    """How many answers have a record."""
    with gateway.database.read() as connection:
        return connection.execute(select(func.count(func.distinct(tables.responses.c.response_id)))).scalar_one()


def lint(text: str) -> None:
    """Prometheus' own linter has nothing to say."""
    command = ["promtool", "check", "metrics"]
    linted = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.needs("prometheus")
async def test_totals_are_exact_although_a_worker_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as gateway:
        async with scripted_engine(obliging) as url:
            gateway.publish({"e0": url})
            gateway.start("/readyz")
            await ready(gateway, url)
            answered = failed = 0
            labels = {"route": "support", "version": STABLE, "endpoint": "chat", "code": "200", "outcome": "ok"}
            ok = partial(gateway.metric, "understudy_requests_total", **labels)
            durations = partial(gateway.metric, "understudy_request_duration_seconds_count", route="support")

            async def ask(turn: int) -> None:
                nonlocal answered, failed
                try:
                    answer = await http.post(CHAT, json=ASK | {"stream": turn % 2 == 0})
                    answered += answer.status_code == 200
                except httpx.TransportError:  # in flight on the killed worker
                    failed += 1

            async with client(gateway) as http:
                for turn in range(20):
                    await asyncio.gather(*(ask(number) for number in range(10)))
                    if turn == 9:
                        await eventually(lambda: ok() >= answered)  # an answer is counted once it has left
                        os.kill(workers(gateway)[-1], signal.SIGKILL)  # the first is multiprocessing's own helper
                        before, kept = answered, stored(gateway)
            assert answered >= 150
            await eventually(lambda: ok() >= answered and durations() >= answered)
            await eventually(lambda: gateway.metric("understudy_requests_in_flight", route="support") == 0)
            await eventually(lambda: len(list((gateway.data_dir / "metrics").glob("*.values"))) == 2)
            for _ in range(3):  # again and again the same: nothing is lost, nothing counted twice
                counted = ok()
                # What the killed worker had sent when it died may have reached no client.
                assert answered <= counted <= answered + failed
                assert counted <= durations() <= answered + failed
                await asyncio.sleep(0.05)
            lint(httpx.get(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=PATIENCE).text)
        assert gateway.stop() == 0
        assert stored(gateway) >= kept + answered - before  # all but the killed worker's last moment


async def test_limits_hold_across_workers(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as gateway:
        _, secret = create_key(gateway.database, "team", ["inference"], rpm=5)
        async with scripted_engine(obliging) as url:
            gateway.publish({"e0": url})
            gateway.start("/readyz")
            await ready(gateway, url)
            loop = asyncio.get_running_loop()
            began = loop.time()

            headers = {"authorization": f"Bearer {secret}"}
            async with client(gateway) as http:
                answers = await asyncio.gather(*(http.post(CHAT, json=ASK, headers=headers) for _ in range(40)))
            passed = sum(answer.status_code == 200 for answer in answers)
            assert 5 <= passed <= 6 + (loop.time() - began) / 12
            refused = [answer for answer in answers if answer.status_code == 429]
            assert len(refused) == 40 - passed
            for answer in refused:
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["x-ratelimit-limit-requests"] == "5"
                assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            limited = partial(gateway.metric, "understudy_rate_limited_total", reason="requests")
            await eventually(lambda: limited() >= len(refused))
            assert limited() == len(refused)


async def test_tokens_of_a_stream_that_its_client_leaves_are_not_given_back(tmp_path: Path) -> None:
    """Otherwise leaving just before the end would make every answer free."""

    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + event(asked, "he"))
        await writer.drain()
        await asked.reader.read()

    with serving(tmp_path) as gateway:
        _, secret = create_key(gateway.database, "team", ["inference"], tpm=600)
        async with scripted_engine(endless) as url:
            gateway.publish({"e0": url})
            gateway.start("/readyz")
            await ready(gateway, url)
            headers = {"authorization": f"Bearer {secret}"}
            statuses = []
            for _ in range(4):
                async with client(gateway) as http:
                    body = ASK | {"stream": True, "max_tokens": 250}
                    async with http.stream("POST", CHAT, json=body, headers=headers) as answer:
                        statuses.append(answer.status_code)
                        async for line in answer.aiter_lines():
                            if line.startswith("data: "):
                                break
                await asyncio.sleep(0.3)
            assert statuses[:2] == [200, 200]
            assert 429 in statuses[2:], statuses


def given(gateway: Gateway) -> list[str]:
    """The answers that stored feedback is about."""
    with gateway.database.read() as connection:
        return list(connection.execute(select(tables.feedback.c.response_id)).scalars())


async def test_feedback_counts_under_the_version_that_answered(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as gateway:
        async with scripted_engine(obliging) as url:
            gateway.publish({"e0": url})
            gateway.start("/readyz")
            await ready(gateway, url)
            async with client(gateway) as http:
                answered = (await http.post(CHAT, json=ASK)).json()["id"]
            codes = []
            for score, kind in ((1, "thumb"), (0.25, "rating"), (1, "thumb"), (2, "thumb"), (1, "star")):
                async with client(gateway) as http:
                    body = {"response_id": answered, "score": score, "kind": kind}
                    codes.append((await http.post("/v1/feedback", content=json.dumps(body))).status_code)
            assert codes == [202, 202, 202, 422, 422]
            labels = {"route": "support", "version": STABLE, "arm": "stable"}
            await eventually(lambda: gateway.metric("understudy_feedback_total", **labels, kind="thumb") == 2)
            assert gateway.metric("understudy_satisfaction_score_sum", **labels) == 2.25
            found = await eventually(lambda: len(rows := given(gateway)) >= 3 and rows)
            assert found == [answered.removeprefix("chatcmpl-")] * 3
