"""Users under load: each asks, judges the answer by its content, and remembers which versions answered it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from trainer.demo.stack import Stack

ASK: dict[str, Any] = {
    "model": "support",
    "messages": [{"role": "user", "content": "reverse abcd"}],
    "max_tokens": 12,
    "temperature": 0,
}


@dataclass(slots=True)
class Observation:
    """One finished request. Times are seconds on the monotonic clock."""

    user: str
    began: float
    ended: float
    outcome: str  # ok, unavailable (503 with Retry-After), stream-error, http-NNN, transport:…
    version: str = ""
    right: bool = True  # the text is the named version's


@dataclass
class Users:
    """`count` users that ask one after another until told to stop."""

    stack: Stack
    count: int
    is_right: Callable[[str, str], bool]  # (text, version that the header names)
    observations: list[Observation] = field(default_factory=list)
    stopping: bool = False

    async def run(self) -> None:
        """Until `stopping`."""
        limits = httpx.Limits(max_connections=self.count)
        headers = {"authorization": f"Bearer {self.stack.key}"}
        async with httpx.AsyncClient(base_url=self.stack.url, headers=headers, limits=limits, timeout=60) as http:
            await asyncio.gather(*(self._user(http, f"user-{i}") for i in range(self.count)))

    def outcomes(self) -> Counter[str]:
        """How the requests ended."""
        return Counter(seen.outcome for seen in self.observations)

    async def _user(self, http: httpx.AsyncClient, name: str) -> None:
        turn = 0
        while not self.stopping:
            turn += 1
            seen = await self._ask(http, name, stream=turn % 2 == 0)
            self.observations.append(seen)
            if seen.outcome != "ok":
                await asyncio.sleep(0.05)

    async def _ask(self, http: httpx.AsyncClient, user: str, stream: bool) -> Observation:
        began = time.monotonic()
        seen = Observation(user, began, 0.0, "ok")
        try:
            answer = await http.post("/v1/chat/completions", json=ASK | {"user": user, "stream": stream})
            seen.version = answer.headers.get("x-understudy-version", "")
            seen.outcome = _outcome(answer, stream)
            if seen.outcome == "ok":
                seen.right = self.is_right(_text(answer, stream), seen.version)
        except httpx.TransportError as error:
            seen.outcome = f"transport:{type(error).__name__}"
        seen.ended = time.monotonic()
        return seen


def _outcome(answer: httpx.Response, stream: bool) -> str:
    if answer.status_code == 503 and "retry-after" in answer.headers and "error" in answer.json():
        return "unavailable"
    if answer.status_code != 200:
        return f"http-{answer.status_code}"
    if stream and "data: [DONE]" not in answer.text:
        return "stream-error" if '"error"' in answer.text else "silent-end"
    return "ok"


def _text(answer: httpx.Response, stream: bool) -> str:
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = (json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {"))
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def moved_back(observations: list[Observation], swaps: list[tuple[float, str]]) -> int:
    """How often a user was answered by a version from before one that had already answered them.

    `swaps`: (when it was asked for, version), in order. A user's answers, in the order they were asked, must fit a
    walk through the swaps that never goes back, and that never runs ahead of what had been asked for.
    """
    count = 0
    at: dict[str, int] = {}
    for seen in sorted((o for o in observations if o.outcome == "ok"), key=lambda o: o.began):
        position = at.get(seen.user, 0)
        allowed = sum(1 for when, _ in swaps if when <= seen.ended) - 1
        found = next((i for i in range(position, allowed + 1) if swaps[i][1] == seen.version), None)
        if found is None:
            count += 1
        else:
            at[seen.user] = found
    return count
