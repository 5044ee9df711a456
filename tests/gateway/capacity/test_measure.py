"""The short load: as many at once as asked for, counted rightly, on a stand-in and on a real vLLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from adapters.errors import EngineUnavailable
from gateway.capacity import measure as module
from gateway.capacity.measure import Load, measure
from tests.support.engine import RealEngine


class Streams:
    """Answers each request with an event of two tokens every few milliseconds; knows how many came at once.

    As a clock it goes by its events, so that no time passes while the machine does something else.
    """

    def __init__(self, status: bytes = b"200 OK", event: str = "") -> None:
        self.now = self.most = 0
        self.events = 0
        self.bodies: list[dict] = []
        self._status = status
        self._event = event or json.dumps({"choices": [{"index": 0, "text": "ab", "token_ids": [5, 6]}]})

    def monotonic(self) -> float:
        return self.events * 0.002

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            writer.write(b"HTTP/1.1 %b\r\nconnection: close\r\n\r\n" % self._status)
            for _ in range(self.bodies[-1]["max_tokens"] // 2):
                self.events += 1
                writer.write(f"data: {self._event}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(0.002)
            writer.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.now -= 1
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self.answer, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_each_step_has_its_concurrency_and_counts_tokens(monkeypatch):
    engine, heard = Streams(), []
    monkeypatch.setattr(module, "time", engine)
    async with engine.serving() as url:
        points = await measure(Load(url, "m", 7, 6, seconds=1.0), (1, 3), heard.append)
    assert [point.concurrency for point in points] == [1, 3] and heard == points
    assert 3 <= engine.most <= 4  # the last request of the step before is given up, and may not be over yet
    body = engine.bodies[0]
    assert (body["model"], len(body["prompt"]), body["max_tokens"], body["ignore_eos"]) == ("m", 7, 6, True)
    assert body["prompt"] != engine.bodies[1]["prompt"]
    for point in points:
        answers = point.tokens_per_second / 6
        assert 0 < answers <= len(engine.bodies)
        assert 0 < point.first_token < 1.0


async def test_every_token_is_counted_but_those_of_answers_given_up(monkeypatch):
    monkeypatch.setattr(module, "WARM", 0.0)
    engine = Streams()
    monkeypatch.setattr(module, "time", engine)
    async with engine.serving() as url:
        (point,) = await measure(Load(url, "m", 7, 6, seconds=1.0), (3,))
    assert 6 * (len(engine.bodies) - 3) <= round(point.tokens_per_second) <= 6 * len(engine.bodies)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (Streams(b"404 Not Found"), "it answers 404"),
        (Streams(event='{"error": "it died"}'), "it died"),
        (Streams(event="{nonsense"), "cannot be measured"),
    ],
    ids=["refused", "died", "nonsense"],
)
async def test_what_goes_wrong_is_one_line(engine, says):
    async with engine.serving() as url:
        with pytest.raises(EngineUnavailable, match=says):
            await measure(Load(url, "m", 3, 4, seconds=20.0), (2,))


async def test_no_engine_at_all():
    with pytest.raises(EngineUnavailable, match="cannot be measured"):
        await measure(Load("http://127.0.0.1:1", "m", 3, 4, seconds=0.2), (1,))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_real_vllm(real_engine: RealEngine, monkeypatch):
    """The tokens that the engine itself counted, but for answers given up: how fast they came is the machine's affair."""
    monkeypatch.setattr(module, "WARM", 0.0)
    seconds = 3.0
    transport = httpx.AsyncHTTPTransport(uds=real_engine.url.removeprefix("unix:"))
    async with httpx.AsyncClient(base_url="http://engine", transport=transport) as client:
        before = _generated((await client.get("/metrics")).text)
        one, four = await measure(Load(real_engine.url, "base", 20, 30, seconds=seconds), (1, 4))
        made = _generated((await client.get("/metrics")).text) - before
    seen = (one.tokens_per_second + four.tokens_per_second) * seconds
    assert made - (1 + 4) * 30 <= round(seen) <= made  # the last answer of each client is given up
    for point in (one, four):
        assert point.per_token > 0 and 0 < point.first_token < 60


def _generated(text: str) -> float:
    """The engine's own count of tokens."""
    lines = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
