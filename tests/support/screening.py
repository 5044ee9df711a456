"""A gate without processes: the test decides when the guard answers; what leaves for the client is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import orjson

from gateway.data_plane.auth import Principal
from gateway.data_plane.endpoints import ENDPOINTS
from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.protocol import parse
from gateway.data_plane.push import Headers, Producer
from gateway.data_plane.routing import Target
from gateway.data_plane.screening.gate import Gate
from gateway.data_plane.screening.policy import Judged, Ruling, compile_policy
from gateway.data_plane.sse import Usage
from gateway.screening_settings import ScreeningSettings
from monitors.conventions import Outcome

SAFE, UNSAFE = Judged(0.01), Judged(0.99, {"S1": 0.99})
AWAY = Judged(unavailable=True, reason="it is away", away=True)
UNREADABLE = Judged(unavailable=True, reason="an image cannot be judged")
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
PATHS = {endpoint.name: path for path, endpoint in ENDPOINTS.items()}


class Pending:
    """A question to the guard."""

    def __init__(self, items: list[dict[str, Any]], then: Callable[[list[Judged]], None]) -> None:
        self.items, self._then = items, then
        self.cancelled = False

    @property
    def texts(self) -> list[str]:
        """What is judged: the answer's text, or the last message."""
        return [item["text"] if "text" in item else str(item["messages"][-1]["content"]) for item in self.items]

    def cancel(self) -> None:
        self.cancelled = True

    def answer(self, *judged: Judged) -> None:
        """One result for each item, or the same for all."""
        self._then(list(judged) if len(judged) == len(self.items) else [judged[0]] * len(self.items))


class Screened:
    """The route's screen: guard, counters, and a client's side that keeps everything."""

    producer: Producer | None = None

    def __init__(self, name: str = "chat", *, body: dict[str, Any] | None = None, **settings: Any) -> None:
        self.settings = ScreeningSettings(**{"mode": "enforce", "url": "http://guard", **settings})
        policy = compile_policy(self.settings, "support")
        assert policy is not None
        self.policy = policy
        self.guard = self
        self.asked: list[Pending] = []
        self.counted: list[tuple[str, str, str]] = []
        self.accounts: list[Finished] = []
        self.answered: list[Pending] = []
        self.out, self.status, self.headers, self.finished = b"", 0, [], False
        request = {"model": "support", **(body or _ask(name))}
        exchange = Exchange(
            parse(ENDPOINTS[PATHS[name]], orjson.dumps(request), 16), _target(), "idididid", b"request", b"unitunit",
            time.monotonic(), b"", [], Principal("me", b"mine", "", frozenset(), frozenset()), 0,
        )  # fmt: skip
        self.gate = Gate(self, exchange, self, self.accounts.append)  # type: ignore[arg-type]  # stands in for RouteScreen
        self.relay = Engine(self.gate, exchange)
        self.gate.producer = self.relay
        self.gate.begin()

    # the screen
    def ask(self, items: list[dict[str, Any]], then: Callable[[list[Judged]], None], *, urgent: bool) -> Pending:
        assert urgent is (items[0]["role"] == "assistant" and "text" in items[0])
        self.asked.append(Pending(items, then))
        return self.asked[-1]

    def count(self, _target: Target, stage: str, ruling: Ruling) -> None:
        self.counted.append((str(stage), str(ruling.verdict), ruling.category))

    def took(self, _stage: str, _seconds: float) -> None:
        pass

    # the client's side
    def start(self, status: int, headers: Headers) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        assert self.status and not self.finished
        self.out += data

    def finish(self) -> None:
        assert not self.finished
        self.finished = True

    @property
    def open(self) -> list[Pending]:
        """Questions without an answer yet."""
        return [ask for ask in self.asked if not ask.cancelled and ask not in self.answered]

    def answer(self, *judged: Judged, place: int = 0) -> Pending:
        """Answer the oldest open question, or another one."""
        ask = self.open[place]
        self.answered.append(ask)
        ask.answer(*judged)
        return ask


class Engine:
    """The relay's part: what it gives the gate, and what it is told."""

    def __init__(self, gate: Gate, exchange: Exchange) -> None:
        self._gate, self._exchange = gate, exchange
        self.cancelled = False
        self.paused = 0
        self.over = False

    def disconnected(self) -> None:
        if not self.over:
            self.cancelled = self.over = True
            self._done(Outcome.CANCELLED, Usage())

    def pause(self) -> None:
        assert not self.over
        self.paused += 1

    def resume(self) -> None:
        assert not self.over
        self.paused -= 1

    def end(self, outcome: Outcome = Outcome.OK, usage: Usage | None = None) -> None:
        """The engine is done."""
        if not self.over:
            self.over = True
            self._gate.finish()
            self._done(outcome, Usage(5, 7) if usage is None else usage)

    def _done(self, outcome: Outcome, usage: Usage) -> None:
        self._gate.finished(Finished(self._exchange, 200, outcome, 0.5, 0.1, 0.0, usage))


def _target() -> Target:
    headers = ((b"x-understudy-version", b"support@aaaaaaaaaaaa"),)
    return Target("support", "support@aaaaaaaaaaaa", "stable", 1, b'"m"', (b"a", b"b"), (), headers)


def _ask(name: str) -> dict[str, Any]:
    if name == "completions":
        return {"prompt": "hi", "stream": True}
    turns = [{"role": "user", "content": "hi"}]
    return {"input" if name == "responses" else "messages": turns, "stream": True}


def chat(text: str | None = None, index: int = 0, end: str | None = None, **delta: Any) -> bytes:
    """One event of a chat stream."""
    said = delta if text is None else {"content": text, **delta}
    choice = {"index": index, "delta": said, "finish_reason": end}
    return sse({"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 9, "model": "support",
                "choices": [choice]})  # fmt: skip


def sse(fields: dict[str, Any], name: str = "") -> bytes:
    """One event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(fields, separators=(',', ':'))}\n\n".encode()


def events(data: bytes) -> list[Any]:
    """The data of each event; the end marker as text. Fails for what is no SSE."""
    found = []
    for event in data.split(b"\n\n")[:-1]:
        lines = event.split(b"\n")
        assert lines[-1].startswith(b"data: ") and all(line.startswith(b"event: ") for line in lines[:-1]), event
        text = lines[-1][6:]
        found.append("[DONE]" if text == b"[DONE]" else json.loads(text))
    assert data.endswith(b"\n\n") or not data
    return found


DONE = b"data: [DONE]\n\n"

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}  # fmt: skip



def whole(screened: Screened, answer: Any = ANSWER) -> bytes:
    """The engine answers unstreamed; the bytes of its answer."""
    body = json.dumps(answer).encode()
    screened.gate.start(200, [*JSON, (b"content-length", b"%d" % len(body))])
    screened.gate.write(body)
    screened.relay.end()
    return body
