"""Measures one running engine with a short load of requests like those expected: one Point per concurrency.

Prompts are random token ids, so that no prefix is cached; answers are as long as asked for (`ignore_eos`). The engine
should have no other traffic meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from adapters.errors import EngineUnavailable
from gateway.capacity.speed import Point

WARM = 0.25  # of the time of a step, before anything counts
PATIENCE = 60.0  # seconds without a byte
_TOKENS = (3, 200)  # ids that every vocabulary has


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: to `url` (http://host:port or unix:/path), for the model `model`; `seconds` per step."""

    url: str
    model: str
    input_tokens: int
    output_tokens: int
    seconds: float = 5.0
    api_key: str = ""


@dataclass
class _Counted:
    """What happened between `opens` and `closes` (monotonic)."""

    opens: float
    closes: float
    tokens: int = 0
    first: list[float] = field(default_factory=list)

    def token(self, count: int, now: float) -> None:
        if self.opens <= now < self.closes:
            self.tokens += count


async def measure(
    load: Load, ladder: Sequence[int], on_point: Callable[[Point], None] = lambda point: None
) -> list[Point]:
    """Points for each concurrency of `ladder`, in its order; `on_point` hears of each. Raises EngineUnavailable."""
    socket = load.url.removeprefix("unix:") if load.url.startswith("unix:") else None
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url="http://engine" if socket else load.url,
        transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits),
        headers={"authorization": f"Bearer {load.api_key}"} if load.api_key else {},
        timeout=PATIENCE,
    ) as client:
        found = []
        for concurrency in ladder:
            try:
                point = await _step(client, load, concurrency)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                reason = str(error) or type(error).__name__
                raise EngineUnavailable(f"the engine at {load.url} cannot be measured: {reason}") from error
            found.append(point)
            on_point(point)
        return found


async def _step(client: httpx.AsyncClient, load: Load, concurrency: int) -> Point:
    now = time.monotonic()
    counted = _Counted(now + load.seconds * WARM, now + load.seconds * (1 + WARM))
    tasks = [
        asyncio.create_task(_client(client, load, counted, random.Random(number))) for number in range(concurrency)
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not counted.tokens or not counted.first:
        raise ValueError(f"no answer began within {load.seconds:.0f} s at {concurrency} at once: measure for longer")
    return Point(concurrency, counted.tokens / load.seconds, sum(counted.first) / len(counted.first))


async def _client(client: httpx.AsyncClient, load: Load, counted: _Counted, numbers: random.Random) -> None:
    """One request after the other until the window closes; the last one is given up."""
    while time.monotonic() < counted.closes:
        body = {
            "model": load.model, "prompt": [numbers.randint(*_TOKENS) for _ in range(load.input_tokens)],
            "max_tokens": load.output_tokens, "ignore_eos": True, "stream": True, "return_token_ids": True,
        }  # fmt: skip
        began, first = time.monotonic(), True
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                text = " ".join((await response.aread()).decode(errors="replace").split())
                raise ValueError(f"it answers {response.status_code}: {text[:300]}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.monotonic()
                if now >= counted.closes:
                    return
                counted.token(_tokens(line), now)
                if first:
                    first = False
                    if began >= counted.opens:
                        counted.first.append(now - began)


def _tokens(line: str) -> int:
    """Tokens in one event; engines that do not say send one."""
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        raise ValueError(str(event["error"]))
    return sum(len(choice.get("token_ids") or (0,)) for choice in event["choices"])
