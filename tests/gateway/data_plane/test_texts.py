"""Prompts and answers of every endpoint as texts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane import texts
from gateway.data_plane.texts import answer_text, prompt_messages

USER = {"role": "user", "content": "hi"}


def events(*bodies: Any, compact: bool = True) -> bytes:
    separators = (",", ":") if compact else (", ", ": ")
    return b"".join(b"data: " + json.dumps(b, separators=separators).encode() + b"\n\n" for b in bodies) + b"data: [DONE]\n\n"


def chat(*texts: str, index: int = 0, compact: bool = True) -> bytes:
    first = {"choices": [{"index": index, "delta": {"role": "assistant", "content": ""}}]}
    parts = ({"choices": [{"index": index, "delta": {"content": text}}]} for text in texts)
    return events(first, *parts, {"choices": []}, compact=compact)


@pytest.mark.parametrize(("endpoint", "fields", "messages"), [
    ("chat", {"messages": [USER]}, [USER]),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "image_url"},
                                                       {"type": "text", "text": "i"}]}]}, [USER]),
    ("completions", {"prompt": "hi"}, [USER]),
    ("completions", {"prompt": [[1, 2]]}, []),
    ("responses", {"input": "hi", "instructions": "be brief"}, [{"role": "system", "content": "be brief"}, USER]),
    ("responses", {"input": [USER]}, [USER]),
    ("messages", {"system": [{"type": "text", "text": "be brief"}], "messages": [USER]},
     [{"role": "system", "content": "be brief"}, USER]),
    ("chat", {"messages": ["odd", 3, {"content": "no role"}, {"role": "user"}]}, [{"role": "user", "content": ""}]),
    ("chat", {}, []),
])  # fmt: skip
def test_prompts(endpoint: str, fields: dict[str, Any], messages: list[Any]) -> None:
    assert prompt_messages(endpoint, fields) == messages


@pytest.mark.parametrize(("endpoint", "body"), [
    ("chat", {"choices": [{"index": 1, "message": {"content": "no"}}, {"index": 0, "message": {"content": "hello"}}]}),
    ("completions", {"choices": [{"index": 0, "text": "hello"}]}),
    ("responses", {"output": [{"type": "reasoning", "content": [{"text": "hm"}]},
                              {"type": "message", "content": [{"type": "output_text", "text": "hello"}]}]}),
    ("messages", {"content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}),
])  # fmt: skip
def test_whole_answers(endpoint: str, body: Any) -> None:
    assert answer_text(endpoint, json.dumps(body).encode()) == "hello"


@pytest.mark.parametrize("compact", [True, False])
def test_streams(compact: bool) -> None:
    assert answer_text("chat", chat("hel", "lo", compact=compact)) == "hello"
    texts = [{"choices": [{"index": 0, "text": text}]} for text in ("hel", "lo")]
    assert answer_text("completions", events(*texts, compact=compact)) == "hello"
    deltas = [{"type": "response.output_text.delta", "delta": text} for text in ("hel", "lo")]
    whole = {"type": "response.completed", "response": {"output": []}}
    call = {"type": "response.function_call_arguments.delta", "delta": "{}"}
    assert answer_text("responses", events(*deltas, call, whole, compact=compact)) == "hello"
    parts = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in ("hel", "lo")]
    assert answer_text("messages", events(*parts, compact=compact)) == "hello"


def test_of_several_choices_the_first_counts() -> None:
    mixed = [{"choices": [{"index": k % 2, "delta": {"content": "ab"[k % 2]}}]} for k in range(6)]
    assert answer_text("chat", events(*mixed)) == "aaa"


@given(st.lists(st.text(), max_size=8))
def test_any_text_survives_a_stream(texts: list[str]) -> None:
    assert answer_text("chat", chat(*texts)) == "".join(texts)


def test_text_that_looks_like_a_stream_is_text() -> None:
    odd = '"content":"x" data: {"choices"}'
    assert answer_text("chat", chat(odd, '\\"', "\\")) == odd + '\\"' + "\\"


@given(st.binary(max_size=300))
def test_nonsense_has_no_text_and_raises_nothing(data: bytes) -> None:
    for endpoint in ("chat", "completions", "responses", "messages"):
        assert isinstance(answer_text(endpoint, data), str)


def test_a_stream_that_was_cut_off_has_its_beginning() -> None:
    assert answer_text("chat", chat("hel", "lo")[:-60]).startswith("hel")
    assert answer_text("chat", b'{"choices": [{"mess') == ""


PARTS = (
    '"content":"a"', '"content":""', '"content": "b"', '"content":null', '"content":"c\\"d"', '"content":"\\\\"', '"content":"é 漢"',
    '"text":"t"', '"text" :"u"', '"x":"content"', '"x":"\\"content\\":\\"y\\""',
)  # fmt: skip


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_the_short_way_to_a_streams_text_is_the_pattern(endpoint: str) -> None:
    draw = random.Random(0)
    for _ in range(3000):
        data = "".join(f"data: {{{draw.choice(PARTS)}}}\n\n" for _ in range(draw.randint(0, 4))).encode()
        data = data[: draw.randint(0, len(data))]  # only the beginning was kept
        assert texts._single_choice(endpoint, data) == texts._DELTAS[endpoint].findall(data), data
