"""How blocked streams and answers of each endpoint end: read by the official clients' own models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response, ResponseIncompleteEvent

from tests.support.screening import JSON, SAFE, SSE, UNSAFE, Screened, events, sse

MESSAGE = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "support", "stop_reason": None,
           "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 0}}  # fmt: skip
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "support", "status": "in_progress",
            "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip


def named(screened: Screened, *fields: dict[str, Any]) -> None:
    for event in fields:
        screened.gate.write(sse(event, event["type"]))


def blocked(name: str, *, before: bool, streamed: bool = True) -> Screened:
    """A blocked prompt, or (`before` False) an answer that is blocked after its beginning has left."""
    body = {"prompt": "hi"} if name == "completions" else {"input": "hi"} if name == "responses" else {
        "messages": [{"role": "user", "content": "hi"}]}  # fmt: skip
    screened = Screened(name, body=body | {"stream": streamed}, checkpoint=1)
    if before:
        screened.answer(UNSAFE)
        return screened
    screened.answer(SAFE)
    screened.gate.start(200, SSE)
    if name == "messages":
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fine "}}
        named(screened, {"type": "message_start", "message": MESSAGE}, start, delta)
        screened.answer(SAFE)
        named(screened, delta | {"delta": {"type": "text_delta", "text": "krund krund krund"}})
    else:
        delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "i"}
        named(screened, {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
              delta | {"sequence_number": 1, "delta": "fine "})  # fmt: skip
        screened.answer(SAFE)
        named(screened, delta | {"sequence_number": 2, "delta": "krund krund krund"})
    screened.answer(UNSAFE)
    return screened


def test_chats_and_completions() -> None:
    for found in events(blocked("chat", before=True).out)[:-1]:
        ChatCompletionChunk.model_validate(found)
    answer = ChatCompletion.model_validate_json(blocked("chat", before=True, streamed=False).out)
    assert answer.choices[0].finish_reason == "content_filter" and answer.choices[0].message.content == ""
    assert answer.usage is not None and answer.usage.total_tokens == 0
    for found in events(blocked("completions", before=True).out)[:-1]:
        assert Completion.model_validate(found).choices[0].finish_reason == "content_filter"
    assert Completion.model_validate_json(blocked("completions", before=True, streamed=False).out).choices[0].text == ""


@pytest.mark.parametrize("before", [True, False], ids=["prompt", "answer"])
def test_a_stream_of_messages_is_complete(before: bool) -> None:
    found = events(blocked("messages", before=before).out)
    kinds = [event["type"] for event in found]
    assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                     "message_delta", "message_stop"]  # fmt: skip
    assert found[-2]["delta"] == {"stop_reason": "refusal", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == (0 if before else 5)
    assert "krund" not in json.dumps(found)


@pytest.mark.parametrize("before", [True, False], ids=["prompt", "answer"])
def test_a_stream_of_responses_is_complete(before: bool) -> None:
    found = events(blocked("responses", before=before).out)
    assert found[0]["type"] == "response.created" and [e["sequence_number"] for e in found] == list(range(len(found)))
    last = ResponseIncompleteEvent.model_validate(found[-1])
    assert last.response.incomplete_details is not None and last.response.incomplete_details.reason == "content_filter"
    assert "krund" not in json.dumps(found)


def test_whole_messages_and_responses() -> None:
    prompt = Response.model_validate_json(blocked("responses", before=True, streamed=False).out)
    assert prompt.status == "incomplete" and prompt.output_text == ""
    message = json.loads(blocked("messages", before=True, streamed=False).out)
    assert (message["stop_reason"], message["content"][0]["type"]) == ("refusal", "text")
    for name, answer in (("responses", RESPONSE | {"output": [{"type": "message", "content": [{"text": "krund"}]}]}),
                         ("messages", MESSAGE | {"content": [{"type": "tool_use", "name": "f", "input": {"id": "krund"}}]})):  # fmt: skip
        screened = Screened(name, body={"input": "hi", "messages": [{"role": "user", "content": "hi"}]})
        screened.answer(SAFE)
        screened.gate.start(200, JSON)
        screened.gate.write(json.dumps(answer).encode())
        screened.relay.end()
        assert "krund" in screened.answer(UNSAFE).texts[0]
        assert b"krund" not in screened.out and screened.finished
