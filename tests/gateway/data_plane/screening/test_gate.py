"""One screened request: who waits for whom, what a refusal looks like, and that the account is given once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.types import Flag
from monitors.conventions import Outcome
from tests.support.screening import (
    ASK,
    AWAY,
    DONE,
    JSON,
    SAFE,
    SSE,
    UNREADABLE,
    UNSAFE,
    Screened,
    chat,
    events,
    whole,
)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_blocked_prompt_cancels_the_engine(streamed: bool) -> None:
    screened = Screened(body=ASK | {"stream": streamed})
    if streamed:
        screened.gate.start(200, SSE)
        screened.gate.write(chat("secret"))
    assert not screened.status
    screened.answer(UNSAFE)
    assert screened.relay.cancelled and screened.finished and screened.status == 200 and b"secret" not in screened.out
    found = events(screened.out)[-2] if streamed else json.loads(screened.out)
    assert found["choices"][0]["finish_reason"] == "content_filter" and found["model"] == "support"
    assert found["id"] == "chatcmpl-idididid"
    (done,) = screened.accounts
    assert (done.outcome, done.status) == (Outcome.BLOCKED, 200)
    assert done.flags == Flag.UNSAFE_PROMPT  # nothing is said about the version


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_blocked_prompt_can_be_an_error(streamed: bool) -> None:
    screened = Screened(body=ASK | {"stream": streamed}, refusal="error")
    screened.answer(UNSAFE)
    assert screened.status == 400 and json.loads(screened.out)["error"]["code"] == "content_filter"
    assert screened.accounts[0].status == 400 and screened.accounts[0].outcome is Outcome.BLOCKED
    assert b"x-understudy-version" in dict(screened.headers)


def test_without_a_guard_nothing_leaves_unless_it_is_allowed() -> None:
    screened = Screened(body=ASK)
    screened.answer(AWAY)
    assert screened.status == 503 and json.loads(screened.out)["error"]["code"] == "screening_unavailable"
    assert dict(screened.headers)[b"retry-after"] == b"1"
    assert screened.accounts[0].outcome is Outcome.BLOCKED and not screened.accounts[0].failed
    screened = Screened(body=ASK)
    whole(screened)
    screened.answer(SAFE)
    screened.answer(AWAY)
    assert screened.status == 503 and b"hello" not in screened.out
    assert [done.status for done in screened.accounts] == [503]
    screened = Screened(body=ASK, on_unavailable="allow")
    body = whole(screened)
    screened.answer(AWAY)
    screened.answer(AWAY)
    assert screened.out == body and screened.accounts[0].flags == Flag.UNSCREENED


def test_what_cannot_be_judged_is_refused_with_the_reason() -> None:
    screened = Screened(body=ASK, refusal="error")
    screened.answer(UNREADABLE)
    assert screened.status == 400 and "an image cannot be judged" in json.loads(screened.out)["error"]["message"]


def test_an_engines_error_passes_at_once() -> None:
    screened = Screened(body=ASK)
    screened.gate.start(400, JSON)
    screened.gate.write(b'{"error": {}}')
    screened.relay.end(Outcome.ERROR)
    assert (screened.out, screened.status, screened.finished) == (b'{"error": {}}', 400, True)
    assert screened.accounts[0].outcome is Outcome.ERROR and all(ask.cancelled for ask in screened.asked)


@pytest.mark.parametrize("when", ["before", "streaming", "held"])
def test_a_client_that_leaves_ends_everything(when: str) -> None:
    screened = Screened(body=ASK | {"stream": True})
    if when != "before":
        screened.gate.start(200, SSE)
        screened.gate.write(chat("a "))
    if when == "held":
        screened.answer(SAFE)
        screened.gate.write(DONE)
        screened.relay.end()
        assert screened.open
    screened.gate.disconnected()
    assert not screened.open and screened.relay.over and not screened.finished
    assert [done.outcome for done in screened.accounts] == [Outcome.CANCELLED]


def test_one_direction_only() -> None:
    screened = Screened(body=ASK, directions=("response",))
    assert screened.asked == []
    body = whole(screened)
    screened.answer(SAFE)
    assert screened.out == body
    screened = Screened(body=ASK, directions=("prompt",))
    body = whole(screened)
    assert not screened.out
    screened.answer(SAFE)
    assert screened.out == body and len(screened.asked) == 1 and len(screened.accounts) == 1
    screened = Screened(directions=("prompt",))
    screened.gate.start(200, SSE)
    screened.gate.write(chat("a "))
    screened.answer(SAFE)
    assert screened.out == chat("a ")
    screened.gate.write(DONE)
    screened.relay.end()
    assert screened.out == chat("a ") + DONE and screened.finished


def test_a_bug_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.data_plane.screening import stream

    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(stream, "hear", broken)
    screened = Screened()
    screened.gate.start(200, SSE)
    screened.gate.write(chat("secret"))
    assert screened.status == 500 and screened.finished and b"secret" not in screened.out
    assert screened.relay.cancelled and screened.accounts[0].outcome is Outcome.ERROR
    screened = Screened()
    screened.answer(SAFE)
    screened.gate.start(200, SSE)
    screened.gate.write(chat("secret"))
    assert screened.status == 200 and screened.finished and b"secret" not in screened.out
    assert events(screened.out)[0]["error"]["code"] == "internal_error" and len(screened.accounts) == 1
