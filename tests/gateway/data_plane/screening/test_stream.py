"""Streams through the gate: for any chunking, any place of the unsafe words and any timing of the guard."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.types import Flag
from gateway.data_plane.screening import stream as stream_module
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome
from tests.support.screening import AWAY, DONE, SAFE, SSE, UNREADABLE, UNSAFE, Judged, Screened, chat, events, sse

BAD = "krund"
PARTLY = Judged(0.7, {"S1": 0.7})  # unsafe at the end, not sure enough before


def started(**options: Any) -> Screened:
    """A stream that has begun, its prompt cleared."""
    screened = Screened(**options)
    if screened.policy.prompt is not None:
        screened.answer(SAFE)
    screened.gate.start(200, SSE)
    return screened


def text_of(screened: Screened, choice: int = 0) -> str:
    """The content that the client has."""
    found = [c for e in events(screened.out) if e != "[DONE]" for c in e.get("choices", ()) if c["index"] == choice]
    return "".join(c["delta"].get("content") or "" for c in found)


def reasons(screened: Screened) -> dict[int, str]:
    """Finish reason by choice; each may have one."""
    found: dict[int, str] = {}
    for event in events(screened.out):
        for choice in event.get("choices", ()) if event != "[DONE]" else ():
            if choice["finish_reason"]:
                assert choice["index"] not in found
                found[choice["index"]] = choice["finish_reason"]
    return found


def test_checkpoints_are_geometric_and_only_what_is_cleared_leaves() -> None:
    screened = started(checkpoint=4)
    for number in range(40):
        screened.gate.write(chat(f"w{number} "))
        if screened.open:
            judged = screened.open[0].texts[0]
            assert judged.startswith(text_of(screened)) and judged != text_of(screened)
            screened.answer(SAFE)
            assert text_of(screened) == judged
    lengths = [len(ask.texts[0].split()) for ask in screened.asked[1:]]
    assert lengths == [4, 8, 16, 32]
    screened.gate.write(chat(end="stop") + DONE)
    screened.relay.end()
    assert not screened.finished
    assert screened.answer(SAFE).texts[0].endswith("w39 ")
    assert screened.finished and screened.out.endswith(DONE)
    assert [one.outcome for one in screened.accounts] == [Outcome.OK]


def test_steps_between_checkpoints_can_be_limited() -> None:
    screened = started(checkpoint=4, checkpoint_step=5)
    for number in range(30):
        screened.gate.write(chat(f"w{number} "))
        if screened.open:
            screened.answer(SAFE)
    assert [len(ask.texts[0].split()) for ask in screened.asked[1:]] == [4, 8, 13, 18, 23, 28]


def test_an_unfinished_text_needs_a_surer_verdict() -> None:
    screened = started(checkpoint=2)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(PARTLY)
    assert text_of(screened) == "a b "
    screened.gate.write(chat("c ") + chat(end="stop") + DONE)
    screened.answer(PARTLY)
    assert reasons(screened) == {0: "content_filter"} and text_of(screened) == "a b "
    assert screened.relay.cancelled and screened.finished


def test_a_text_that_was_cleared_unfinished_may_be_blocked_at_its_end() -> None:
    screened = started(checkpoint=2)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(PARTLY)
    screened.gate.write(chat(end="stop") + DONE)
    assert reasons(screened) == {0: "content_filter"} and text_of(screened) == "a b " and screened.finished
    assert events(screened.out)[-1] == "[DONE]" and len(screened.accounts) == 1


def test_a_block_is_a_valid_end_with_usage_for_who_asked() -> None:
    options = {"body": {"messages": [{"role": "user", "content": "hi"}], "stream": True,
                        "stream_options": {"include_usage": True}}}  # fmt: skip
    screened = started(checkpoint=2, **options)
    screened.gate.write(chat("a ", role="assistant") + chat("b "))
    screened.answer(SAFE)
    screened.gate.write(chat(BAD) + chat("!"))
    screened.answer(UNSAFE)
    found = events(screened.out)
    assert found[-1] == "[DONE]" and found[-2]["choices"] == [] and found[-2]["usage"]["completion_tokens"] == 4
    assert found[-3]["choices"][0]["finish_reason"] == "content_filter"
    assert {event["id"] for event in found[:-1]} == {"chatcmpl-x"}
    assert BAD not in screened.out.decode()
    (done,) = screened.accounts
    assert (done.outcome, done.status, done.usage.output_tokens) == (Outcome.BLOCKED, 200, 4)
    assert done.flags & Flag.GUARD and done.guard_score == 0.99
    assert screened.counted == [("prompt", "safe", ""), ("response", "unsafe", "S1")]


def test_a_stream_that_ends_where_it_was_judged_is_not_judged_again() -> None:
    screened = started(checkpoint=2)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(SAFE)
    screened.gate.write(chat(end="stop") + DONE)
    screened.relay.end()
    assert screened.finished and len(screened.asked) == 2


def test_empty_streams_need_no_verdict() -> None:
    screened = started()
    screened.gate.write(chat("", role="assistant") + chat(end="stop") + DONE)
    screened.relay.end()
    assert screened.finished and len(screened.asked) == 1 and screened.accounts[0].outcome is Outcome.OK


def test_without_a_guard_a_stream_ends_with_an_error_and_no_end_marker() -> None:
    screened = started(checkpoint=2)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(AWAY)
    (error,) = events(screened.out)
    assert error["error"]["code"] == "screening_unavailable" and screened.finished
    (done,) = screened.accounts
    assert (done.outcome, done.status) == (Outcome.BLOCKED, 503) and done.flags & Flag.UNSCREENED


@pytest.mark.parametrize("prompt", [SAFE, UNSAFE, AWAY], ids=["safe", "unsafe", "away"])
@pytest.mark.parametrize("answer", [UNSAFE, AWAY], ids=["unsafe", "away"])
def test_an_answer_may_be_decided_before_its_prompt(prompt: Judged, answer: Judged) -> None:
    screened = Screened(checkpoint=2)
    screened.gate.start(200, SSE)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(SAFE, place=1)
    screened.gate.write(chat("c ") + chat("d "))
    screened.answer(answer, place=1)
    assert screened.relay.cancelled and not screened.status and not screened.accounts
    screened.answer(prompt)
    assert screened.finished and [done.outcome for done in screened.accounts] == [Outcome.BLOCKED]
    assert screened.status == (503 if prompt is AWAY else 200)
    assert text_of(screened) == ("a b " if prompt is SAFE else "") if screened.status == 200 else b"a " not in screened.out


def test_a_missing_verdict_can_be_allowed() -> None:
    screened = started(checkpoint=2, on_unavailable="allow")
    sent = chat("a ") + chat("b ") + chat(end="stop") + DONE
    screened.gate.write(sent)
    screened.answer(AWAY)
    screened.relay.end()
    while screened.open:
        screened.answer(AWAY)
    assert screened.out == sent and screened.finished
    assert screened.accounts[0].flags & Flag.UNSCREENED and screened.accounts[0].outcome is Outcome.OK


def test_an_answer_that_cannot_be_judged_is_blocked() -> None:
    screened = started(checkpoint=2)
    screened.gate.write(chat("a ") + chat("b "))
    screened.answer(UNREADABLE)
    assert reasons(screened) == {0: "content_filter"}


def test_of_several_choices_only_the_unsafe_one_ends() -> None:
    screened = started(checkpoint=2, body={"messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 2})
    screened.gate.write(chat("a ", 0) + chat("x ", 1) + chat(BAD, 1) + chat("b ", 0))
    while screened.open:
        ask = screened.open[0]
        screened.answer(*[UNSAFE if BAD in text else SAFE for text in ask.texts])
    screened.gate.write(chat("c ", 0) + chat("more ", 1) + chat(end="stop", index=1) + chat(end="stop", index=0) + DONE)
    screened.relay.end()
    while screened.open:
        screened.answer(SAFE)
    assert reasons(screened) == {0: "stop", 1: "content_filter"}
    assert (text_of(screened, 0), text_of(screened, 1)) == ("a b c ", "") and screened.out.endswith(DONE)
    assert screened.accounts[0].outcome is Outcome.OK and screened.accounts[0].flags & Flag.GUARD


def test_tool_calls_reasoning_and_unknown_parts_are_text_too() -> None:
    for delta in (
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": BAD}}]},
        {"reasoning": BAD}, {"reasoning_content": BAD}, {"a_new_kind": {"of": [BAD]}}, {"refusal": BAD},
    ):  # fmt: skip
        screened = started(checkpoint=1)
        screened.gate.write(chat(**delta))
        assert BAD in screened.open[0].texts[0]
        screened.answer(UNSAFE)
        assert BAD not in screened.out.decode() and screened.finished


def test_what_cannot_be_read_is_judged_as_it_is() -> None:
    screened = started(checkpoint=1)
    screened.gate.write(b"data: {broken %b\n\n" % BAD.encode())
    assert BAD in screened.answer(UNSAFE).texts[0]
    assert BAD not in screened.out.decode()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MOST_HELD", 2000)
    screened = started(checkpoint=10_000)
    while not screened.open:
        screened.gate.write(chat("word "))
    assert screened.relay.paused == 1 and not screened.out
    screened.answer(SAFE)
    assert screened.relay.paused == 0 and text_of(screened).startswith("word word ")


def test_a_client_that_reads_slowly_stops_the_engine() -> None:
    screened = started(checkpoint=1)
    screened.gate.pause()
    assert screened.relay.paused == 1
    screened.gate.write(chat("a "))
    screened.answer(SAFE)
    assert not screened.out
    screened.gate.write(chat(end="stop") + DONE)
    screened.relay.end()
    assert not screened.finished
    screened.gate.resume()
    assert text_of(screened) == "a " and screened.finished and len(screened.accounts) == 1


def test_audit_holds_nothing_and_accounts_when_it_knows() -> None:
    screened = Screened(mode="audit")
    screened.gate.start(200, SSE)
    sent = chat(f"{BAD} ") + chat(end="stop") + DONE
    screened.gate.write(sent)
    assert screened.out == sent
    screened.relay.end()
    assert screened.finished and not screened.accounts
    screened.answer(UNSAFE)
    screened.answer(UNSAFE)
    (done,) = screened.accounts
    assert done.outcome is Outcome.OK and done.flags & Flag.GUARD and done.flags & Flag.UNSAFE_PROMPT
    assert done.duration == 0.5 and done.ttft == 0.1
    assert screened.counted == [("prompt", "unsafe", "S1"), ("response", "unsafe", "S1")]


def test_a_text_that_goes_on_after_its_end_is_judged_too() -> None:
    screened = started(checkpoint=1)
    screened.gate.write(chat("a ", end="stop"))
    screened.answer(SAFE)
    screened.gate.write(chat(BAD) + DONE)
    screened.relay.end()
    while screened.open:
        screened.answer(*[UNSAFE if BAD in text else SAFE for text in screened.open[0].texts])
    assert BAD not in screened.out.decode() and screened.finished


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "whole"])
def test_an_engine_that_fails_in_the_middle(broken: bool) -> None:
    screened = started(checkpoint=64)
    error = b'data: {"error":{"message":"the engine failed","code":"upstream_error"}}\n\n'
    screened.gate.write(chat(BAD if broken else "a "))
    screened.gate.write(error)
    screened.relay.end(Outcome.TRUNCATED, Usage())
    assert not screened.out
    screened.answer(UNSAFE if broken else SAFE)
    assert screened.finished and (error in screened.out) is not broken and BAD not in screened.out.decode()
    assert screened.accounts[0].outcome is (Outcome.BLOCKED if broken else Outcome.TRUNCATED)


# -- any stream, any timing ---------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["a", " ", "kr", "und", BAD, "böse", "\\n", '"', "x" * 30]), max_size=30)
STEPS = st.lists(st.sampled_from(["guard", "guard", "pause", "resume", "nothing"]), max_size=60)


@settings(max_examples=300)
@given(words=WORDS, cuts=st.data(), steps=STEPS, checkpoint=st.integers(1, 20), step=st.integers(0, 9))
def test_nothing_uncleared_leaves(words: list[str], cuts: st.DataObject, steps: list[str], checkpoint: int, step: int) -> None:
    text = "".join(words)
    screened = Screened(checkpoint=checkpoint, checkpoint_step=step)
    cleared = [""]

    def guard() -> None:
        waiting = screened.open
        if waiting:  # in any order
            place = cuts.draw(st.integers(0, len(waiting) - 1))
            texts = waiting[place].texts
            cleared.extend(one for one in texts if BAD not in one)
            screened.answer(*[UNSAFE if BAD in one else SAFE for one in texts], place=place)

    screened.gate.start(200, SSE)
    sent, left, timing = b"", text, iter(steps)
    while left and not screened.relay.over:
        size = cuts.draw(st.integers(1, 12))
        piece, left = left[:size], left[size:]
        sent += chat(piece)
        screened.gate.write(chat(piece))
        what = next(timing, "guard")
        if what == "guard":
            guard()
        elif what != "nothing" and not screened.finished:
            screened.gate.pause() if what == "pause" else screened.gate.resume()
        assert text_of(screened) in {one[: len(text_of(screened))] for one in cleared}
        assert BAD not in text_of(screened)
    end = chat(end="stop") + DONE
    if not screened.relay.over:
        screened.gate.write(end)
        screened.relay.end()
    while screened.open:
        guard()
    screened.gate.resume()
    assert BAD not in screened.out.decode() and screened.finished and len(screened.accounts) == 1
    if BAD not in text:
        assert screened.out == sent + end and screened.accounts[0].outcome is Outcome.OK
    else:
        assert reasons(screened) == {0: "content_filter"} and screened.accounts[0].outcome is Outcome.BLOCKED
        assert text_of(screened) in {one[: len(text_of(screened))] for one in cleared}


def test_named_events() -> None:
    """In test_outline.py: what they look like. Here: that every text in them is judged."""
    item = {"type": "function_call", "name": "f", "arguments": BAD}
    for name, event in (
        ("messages", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": BAD}}),
        ("messages", {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": BAD}}),
        ("messages", {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": BAD}}),
        ("responses", {"type": "response.output_text.delta", "delta": BAD, "output_index": 0, "content_index": 0}),
        ("responses", {"type": "response.output_item.done", "output_index": 0, "item": item}),
        ("responses", {"type": "response.completed", "response": {"output": [{"content": [{"text": BAD}]}]}}),
    ):
        screened = started(name=name, checkpoint=1)
        screened.gate.write(sse(event, str(event["type"])))
        assert BAD in screened.answer(UNSAFE).texts[0]
        assert BAD not in screened.out.decode() and screened.finished


def test_lines_may_end_in_crlf() -> None:
    screened = started(checkpoint=4)
    stream = (chat("a ") + chat("b", end="stop") + DONE).replace(b"\n", b"\r\n")
    screened.gate.write(stream)
    screened.relay.end()
    screened.answer(SAFE)
    assert screened.finished and screened.out == stream
