"""Unstreamed answers: they wait whole, and leave byte for byte, or without what is blocked of them."""

from __future__ import annotations

import json

from adapters.types import Flag
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome
from tests.support.screening import ANSWER, ASK, SAFE, UNSAFE, Screened, whole


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


def test_several_prompts_and_what_each_is_judged_with() -> None:
    body = {"prompt": ["one", "two"], "n": 2}
    screened = Screened("completions", body=body)
    assert screened.answer(SAFE).texts == ["one", "two"]
    whole(screened, {"choices": [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in range(4)]})
    asked = screened.answer(SAFE, SAFE, SAFE, UNSAFE)
    assert [item["messages"][0]["content"] for item in asked.items] == ["one", "one", "two", "two"]
    assert [c["text"] for c in json.loads(screened.out)["choices"]] == ["t0", "t1", "t2", ""]

