"""Reads off a busy engine's /metrics how fast it is, and what is asked of it: one Point, and requests' sizes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from adapters.errors import EngineUnavailable
from gateway.capacity.speed import Point

EVERY = 1.0  # seconds between readings
_LINE = re.compile(r"vllm:(?P<name>\w+)(?:\{.*\})?\s+(?P<value>\S+)")
_COUNTED = (
    "generation_tokens_total", "request_prompt_tokens_sum", "request_prompt_tokens_count",
    "request_generation_tokens_sum", "time_to_first_token_seconds_sum", "time_to_first_token_seconds_count",
    "request_queue_time_seconds_sum", "request_queue_time_seconds_count",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """One engine over a while: its point, requests a second, tokens of a request."""

    point: Point
    rps: float
    input_tokens: float
    output_tokens: float


def read(text: str) -> dict[str, float]:
    """The numbers of one reading, summed over label sets; vLLM's names without `vllm:`."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["name"]] = found.get(match["name"], 0.0) + float(match["value"])
    return found


def seen_between(first: dict[str, float], last: dict[str, float], running: float, seconds: float) -> Seen:
    """`running`: requests that ran at once, on average. Raises EngineUnavailable when too little happened."""
    change = {name: last.get(name, 0.0) - first.get(name, 0.0) for name in _COUNTED}
    requests = change["request_prompt_tokens_count"]
    if requests < 1 or change["generation_tokens_total"] <= 0 or change["time_to_first_token_seconds_count"] < 1:
        raise EngineUnavailable(f"the engine finished no request within {seconds:.0f} s: watch it while it is busy")
    waiting = change["request_queue_time_seconds_sum"] / max(change["request_queue_time_seconds_count"], 1.0)
    arrival_to_first = change["time_to_first_token_seconds_sum"] / change["time_to_first_token_seconds_count"]
    point = Point(max(running, 1.0), change["generation_tokens_total"] / seconds, max(0.0, arrival_to_first - waiting))
    return Seen(
        point,
        requests / seconds,
        change["request_prompt_tokens_sum"] / requests,
        change["request_generation_tokens_sum"] / requests,
    )


async def watch(url: str, seconds: float, api_key: str = "", on_look: Callable[[], None] = lambda: None) -> Seen:
    """Look for so long. Raises EngineUnavailable."""
    socket = url.removeprefix("unix:") if url.startswith("unix:") else None
    async with httpx.AsyncClient(
        base_url="http://engine" if socket else url,
        transport=httpx.AsyncHTTPTransport(uds=socket),
        headers={"authorization": f"Bearer {api_key}"} if api_key else {},
    ) as client:
        began = time.monotonic()
        first = last = await _look(client, url)
        running = []
        while time.monotonic() - began < seconds:
            await asyncio.sleep(min(EVERY, seconds))
            last = await _look(client, url)
            running.append(last.get("num_requests_running", 0.0))
            on_look()
        took = time.monotonic() - began
    return seen_between(first, last, sum(running) / len(running), took)


async def _look(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    try:
        answer = await client.get("/metrics")
        answer.raise_for_status()
        return read(answer.text)
    except (httpx.HTTPError, ValueError) as error:
        raise EngineUnavailable(f"the engine at {url} shows no metrics: {error or type(error).__name__}") from error
