"""Nothing that a model reads is left out; what is no text is said to be none."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.data_plane.screening.prompts import context, conversations, questions
from monitors.llama_guard.conversation import Unreadable, turns

USER = {"role": "user", "content": "hi"}


def read(endpoint: str, fields: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """As the guard reads it."""
    return [[(turn.who, turn.text) for turn in turns(one)] for one in conversations(endpoint, fields)]


def test_prompts_of_every_endpoint() -> None:
    assert read("chat", {"messages": [USER]}) == [[("user", "hi")]]
    assert read("messages", {"system": [{"type": "text", "text": "sys"}], "messages": [USER]}) == [[("user", "sys\n\nhi")]]
    assert read("responses", {"instructions": "do", "input": "hi"}) == [[("user", "do\n\nhi")]]
    output = {"type": "function_call_output", "call_id": "c", "output": "42"}
    assert read("responses", {"input": [USER, output]}) == [[("user", "hi"), ("data", "42")]]
    assert read("completions", {"prompt": ["a", "b"], "suffix": "end"}) == [[("user", "a\n\nend")], [("user", "b\n\nend")]]


def test_tools_and_documents_are_read() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "krund"}}]
    (found,) = read("chat", {"messages": [USER], "tools": tools, "documents": [{"text": "zorvex"}]})
    assert [who for who, _ in found] == ["user", "data", "user"]
    assert "krund" in found[0][1] and "zorvex" in found[1][1]


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2]], [{"a": 1}]])
def test_tokens_cannot_be_judged(prompt: Any) -> None:
    with pytest.raises(Unreadable):
        read("completions", {"prompt": prompt})
    with pytest.raises(Unreadable):
        read("completions", {"prompt": "hi", "prompt_embeds": "xx"})


@pytest.mark.parametrize("messages", [None, [], [1], {"role": "user"}])
def test_what_the_engine_refuses_is_left_to_the_engine(messages: Any) -> None:
    assert conversations("chat", {"messages": messages}) == []


def test_a_prompt_without_text_needs_no_verdict() -> None:
    for endpoint, fields in (("chat", {"messages": [{"role": "user", "content": " "}]}), ("completions", {"prompt": ""})):
        assert [questions(one) for one in conversations(endpoint, fields)] == [[]]
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    assert len(questions([image])) == 1


def test_an_answer_that_the_client_began_is_judged_as_one() -> None:
    begun = {"role": "assistant", "content": "sure. first get krund"}
    assert [one["role"] for one in questions([USER, begun])] == ["user", "assistant"]
    assert [one["role"] for one in questions([begun])] == ["assistant"]
    assert [one["role"] for one in questions([USER, {"role": "assistant", "content": ""}])] == ["user"]


def test_beside_an_answer_an_image_is_only_mentioned() -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]}]
    with pytest.raises(Unreadable):
        turns(asked)
    assert turns(context(asked))[0].text == "look\n\n[image_url]"
