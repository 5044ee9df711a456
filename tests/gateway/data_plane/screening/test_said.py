"""What a model says: every string that is not structure, wherever it stands."""

from __future__ import annotations

import json
from typing import Any

from gateway.data_plane.screening.pieces import Choice
from gateway.data_plane.screening.said import Said, hear, hear_whole, strings
from tests.support.screening import chat, sse


def texts(endpoint: str, body: dict[str, Any]) -> dict[int, str]:
    said, fields = hear_whole(endpoint, json.dumps(body).encode())
    assert fields == body
    return {index: one.text() for index, one in said.items()}


def test_structure_is_not_text_and_everything_else_is() -> None:
    value = {"role": "assistant", "content": "a", "finish_reason": "stop", "new": [{"deep": "b"}, "c"], "n": 1, "x": None}
    assert [text for _, text in strings(value)] == ["a", "b", "c"]
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"id": "d", "role": "e"}}
    assert [text for _, text in strings(call)] == ["f", '{"id":"d","role":"e"}']


def test_whole_answers_of_every_endpoint() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}}
    choices = [{"index": 0, "message": {"content": "a", "reasoning": "why", "tool_calls": [call]}, "finish_reason": "stop"},
               {"index": 1, "message": {"content": "b"}}]  # fmt: skip
    assert texts("chat", {"choices": choices}) == {0: "a\n\nwhy\n\nf\n\n{}", 1: "b"}
    assert texts("completions", {"choices": [{"index": 0, "text": "a", "stop_reason": "b"}]}) == {0: "a"}
    assert texts("messages", {"content": [{"type": "text", "text": "a"}], "model": "m"}) == {0: "a"}
    output = [{"type": "message", "status": "completed", "content": [{"type": "output_text", "text": "a"}]}]
    assert texts("responses", {"output": output, "instructions": "not the model's"}) == {0: "a"}
    said, fields = hear_whole("chat", b"rubbish")
    assert fields is None and said[0].text() == "rubbish"


def test_pieces_of_several_parts_come_together() -> None:
    said = Said()
    for where, text in ((("content",), "ab"), (("reasoning",), "x"), (("content",), "cd"), (("reasoning",), "y")):
        said.add(where, text)
    assert said.text() == "abcd\n\nxy" and said.length == 6 and said.tokens == 4
    assert "bc" in said and "dx" not in said
    said.add(("content",), "e" * 40)
    assert said.tokens == 14  # an event may bring several tokens


def test_events() -> None:
    heard = hear("chat", chat("hi", index=2, end="stop"))
    assert [(index, text) for index, _, text in heard.texts] == [(2, "hi")] and heard.ends == [2] and heard.choices == [2]
    assert hear("chat", b"data: [DONE]\n\n").texts == hear("chat", b": ping\n\n").texts == []
    stop = hear("messages", sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta"))
    assert stop.ends == [0] and stop.texts == [] and stop.kind == "message_delta"
    error = hear("responses", sse({"type": "error", "code": "x", "message": "y"}, "error"))
    assert error.texts == [] and error.whole == []


def test_checkpoints() -> None:
    choice = Choice(4)
    for tokens, nexts in ((4, 8), (9, 16), (70, 128)):
        choice.said.tokens = tokens
        choice.asked(0)
        assert choice.next == nexts
