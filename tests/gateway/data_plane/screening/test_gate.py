"""One screened request: who waits for whom, what a refusal looks like, and that the account is given once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.types import Flag
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome
from tests.support.screening import AWAY, DONE, JSON, SAFE, SSE, UNREADABLE, UNSAFE, Screened, chat, events

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}  # fmt: skip


def whole(screened: Screened, answer: Any = ANSWER) -> bytes:
    """The engine answers unstreamed."""
    body = json.dumps(answer).encode()
    screened.gate.start(200, [*JSON, (b"content-length", b"%d" % len(body))])
    screened.gate.write(body)
    screened.relay.end()
    return body


def test_a_whole_answer_waits_for_both_verdicts_and_passes_byte_for_byte() -> None:
    screened = Screened(body=ASK)
    body = whole(screened)
    assert not screened.status and [ask.texts for ask in screened.asked] == [["hi"], ["hello"]]
    screened.asked[1].answer(SAFE)
    assert not screened.status and not screened.accounts
    screened.asked[0].answer(SAFE)
    assert (screened.out, screened.status, screened.finished) == (body, 200, True)
    assert dict(screened.headers)[b"content-length"] == b"%d" % len(body)
    (done,) = screened.accounts
    assert (done.outcome, done.flags, done.guard_score) == (Outcome.OK, 0, 0.01)


def test_a_blocked_answer_keeps_its_usage_and_is_well_formed() -> None:
    screened = Screened(body=ASK)
    whole(screened)
    screened.answer(SAFE)
    screened.answer(UNSAFE)
    found = json.loads(screened.out)
    assert found["choices"][0]["finish_reason"] == "content_filter" and found["usage"] == ANSWER["usage"]
    assert found["choices"][0]["message"]["refusal"] and b"hello" not in screened.out
    assert dict(screened.headers)[b"content-length"] == b"%d" % len(screened.out)
    assert screened.accounts[0].outcome is Outcome.BLOCKED and screened.accounts[0].usage == Usage(5, 7)


def test_of_two_choices_one_is_blocked() -> None:
    two = [{"index": i, "message": {"content": text}, "finish_reason": "stop"} for i, text in enumerate(("good", "bad"))]
    screened = Screened(body=ASK | {"n": 2})
    whole(screened, {"choices": two})
    screened.answer(SAFE)
    screened.answer(SAFE, UNSAFE)
    assert [c["finish_reason"] for c in json.loads(screened.out)["choices"]] == ["stop", "content_filter"]
    assert b"good" in screened.out and b"bad" not in screened.out
    assert screened.accounts[0].outcome is Outcome.OK and screened.accounts[0].flags & Flag.GUARD


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
    assert screened.status == 503 and b"hello" not in screened.out and len(screened.accounts) == 1
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


def test_several_prompts_and_what_each_is_judged_with() -> None:
    body = {"prompt": ["one", "two"], "n": 2}
    screened = Screened("completions", body=body)
    assert screened.answer(SAFE).texts == ["one", "two"]
    whole(screened, {"choices": [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in range(4)]})
    asked = screened.answer(SAFE, SAFE, SAFE, UNSAFE)
    assert [item["messages"][0]["content"] for item in asked.items] == ["one", "one", "two", "two"]
    assert [c["text"] for c in json.loads(screened.out)["choices"]] == ["t0", "t1", "t2", ""]
