"""Asks the guard service. What it cannot answer in time is no verdict; a dead guard costs nobody more than a moment.

At most `concurrency` requests are under way, and four times as many prompts and as many answers wait, each with a
deadline; answers go first, because an engine has already worked for them. After some failures in a row the circuit
opens: until a pause is over, which doubles, all is unavailable at once; then one request tries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from gateway.data_plane.call import Call, Timeouts
from gateway.data_plane.push import Headers
from gateway.data_plane.screening.circuit import Circuit
from gateway.data_plane.screening.policy import Judged
from gateway.data_plane.screening.results import read_results
from gateway.data_plane.sink import Failure
from gateway.data_plane.upstreams import Upstream

WAITING = 4  # requests of each kind that may wait per one that may be under way
MOST_ITEMS = 256  # texts of one request, as the service takes them
MAX_ANSWER = 1024**2  # bytes
PATH = b"/v1/screen"

Item = dict[str, Any]
Then = Callable[[list[Judged]], None]


class Ask:
    """One request to the guard: the sink of its answer. `then` is called once, unless it is cancelled before."""

    __slots__ = ("_client", "_data", "_over", "_size", "_status", "_then", "_timer", "body", "call", "count")

    def __init__(self, client: GuardClient, body: bytes, count: int, then: Then) -> None:
        self._client, self._then = client, then
        self._timer = client.loop.call_later(client.timeout, self._late)
        self.body, self.count = body, count
        self.call: Call | None = None
        self._over = False
        self._status = self._size = 0
        self._data: list[bytes] = []

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if not self._over:
            self._client.circuit.gave_up()
            self._end()

    def missing(self, reason: str, away: bool = True) -> None:
        """There is no verdict."""
        self._answer([Judged(unavailable=True, reason=reason, away=away)] * self.count)

    def _answer(self, judged: list[Judged]) -> None:
        if not self._over:
            self._end()
            self._then(judged)

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()
        if self.call is not None:
            self.call.cancel()
        self._client.ended(self)

    def _late(self) -> None:
        if self.call is not None:
            self._failed("it takes too long", "the guard took too long")
        else:
            self._client.circuit.gave_up()
            self.missing("too many texts wait for the guard")

    def _failed(self, why: str, reason: str) -> None:
        self._client.failed(why)
        self.missing(reason)

    # -- Sink ---------------------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        """Remember the status."""
        self._status = status

    def on_data(self, data: bytes) -> None:
        """Collect."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self._failed("it answers without end", "the guard's answer is none")
        else:
            self._data.append(data)

    def on_chunk(self, data: bytes, at: int) -> None:
        """Collect."""
        self.on_data(data[at:-2])

    def on_end(self) -> None:
        """Read the verdicts; whatever else the guard says is none."""
        body, status = b"".join(self._data), self._status
        judged = read_results(body, self.count) if status == 200 else None
        if judged is not None:
            self._client.circuit.worked()
            self._answer(judged)
        elif status == 200:
            self._failed("its answer is none: is screening.url the guard's?", "the guard's answer is none")
        elif status in (400, 413, 422):
            self._client.circuit.worked()
            self.missing("the guard cannot read it", away=False)
        elif status == 503:  # it said so at once, so nothing piles up: it may be asked again
            self._client.circuit.complain("it is not ready, or has too much to do")
            self._client.circuit.gave_up()
            self.missing("the guard has too much to do")
        else:
            key = ": screening.api_key is not its key" if status in (401, 403) else ""
            self._failed(f"it answers {status}{key}", "the guard refuses to answer")

    def on_failure(self, failure: Failure) -> None:
        """No answer."""
        self._failed(failure.value, "the guard cannot be reached")


class GuardClient:
    """One per worker, in the loop. `timeout`: seconds until there is no verdict, waiting included."""

    def __init__(self, url: str, api_key: str, timeout: float, concurrency: int) -> None:
        patience = 2 * timeout  # each Ask has the real limit
        self._upstream = Upstream("guard", url, api_key, Timeouts(patience, patience, patience, patience))
        self.loop = asyncio.get_running_loop()
        self.timeout = timeout
        self.circuit = Circuit()
        self._concurrency = concurrency
        self._running: set[Ask] = set()
        self._waiting: deque[Ask] = deque()
        self._urgent: deque[Ask] = deque()
        self._refused: set[Ask] = set()

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._running) + len(self._waiting) + len(self._urgent) + len(self._refused)

    def ask(self, items: Sequence[Item], then: Then, *, urgent: bool = False) -> Ask:
        """Have texts judged. `then` gets one result for each, in order, in any case and in time, but never at once.

        `urgent`: answers, which wait in a line of their own that is served first.
        """
        line = self._urgent if urgent else self._waiting
        items = [{**item, "id": str(place)} for place, item in enumerate(items)]
        if len(items) > MOST_ITEMS:
            return self._refuse(items, then, f"these are more than {MOST_ITEMS} texts", away=False)
        if len(line) >= WAITING * self._concurrency:
            return self._refuse(items, then, "too many texts wait for the guard")
        if not self.circuit.admits(self.loop.time()):
            return self._refuse(items, then, "the guard is away")
        ask = Ask(self, orjson.dumps({"items": items}), len(items), then)
        if len(self._running) < self._concurrency:
            self._start(ask)
        else:
            line.append(ask)
        return ask

    def _refuse(self, items: Sequence[Item], then: Then, reason: str, away: bool = True) -> Ask:
        ask = Ask(self, b"", len(items), then)
        self._refused.add(ask)
        self.loop.call_soon(ask.missing, reason, away)
        return ask

    def failed(self, why: str) -> None:
        """A request failed; when that was one too many, those that wait have no better prospect."""
        self.circuit.failed(why, self.loop.time())
        if self.circuit.open:
            for ask in [*self._urgent, *self._waiting]:
                ask.missing("the guard is away")

    def ended(self, ask: Ask) -> None:
        """A request is over: the next."""
        self._running.discard(ask)
        self._refused.discard(ask)
        for line in (self._urgent, self._waiting):
            if ask in line:
                line.remove(ask)
            while line and len(self._running) < self._concurrency:
                self._start(line.popleft())

    def sweep(self, now: float) -> None:
        """Say now and then: closes idle connections before the guard does. `now`: the loop's clock."""
        self._upstream.sweep(now)

    def close(self) -> None:
        """Whoever waits hears that there is no verdict."""
        for ask in [*self._urgent, *self._waiting, *self._running, *self._refused]:
            ask.missing("the gateway is shutting down")
        self._upstream.close()

    def _start(self, ask: Ask) -> None:
        self._running.add(ask)
        ask.call = self._upstream.call(PATH, b"", ask.body, ask)
        ask.body = b""
