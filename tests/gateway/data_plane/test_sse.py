"""Streams and answers on their way down."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.endpoints import CHAT, MESSAGES, RESPONSES
from gateway.data_plane.sse import MAX_EVENT, StreamEditor, is_written, read_usage, restamp

ENGINE = (b'"model":"support@3f2a9c1b7d20"', b'"model": "support@3f2a9c1b7d20"')
PUBLIC = b'"model":"support"'


def chunk(delta: dict[str, object] | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    body = {"id": "chatcmpl-1", "model": "support@3f2a9c1b7d20", "choices": choices} | more
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": 'he said "model":"support@3f2a9c1b7d20"'}),
    chunk({"content": 'data: {"error": not really} [DONE]'}),
    chunk({"content": "é\u2028"}),
    chunk(None, usage=USAGE),
    b"data: [DONE]\n\n",
]


def editor(strip: bool = True) -> StreamEditor:
    return StreamEditor(CHAT, ENGINE, PUBLIC, strip)


@given(st.lists(st.integers(1, 4000), max_size=40))
def test_any_split_of_the_bytes_gives_the_same_stream(cuts: list[int]) -> None:
    data, edit, out = b"".join(STREAM), editor(), b""
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    for first, last in itertools.pairwise(edges):
        out += edit.feed(data[first:last])
    out += edit.flush()
    expected = b"".join(STREAM[:4] + STREAM[5:]).replace(ENGINE[0], PUBLIC)
    assert out == expected
    assert edit.done and edit.content and edit.error is None
    assert read_usage(edit.usage_event).output_tokens == 3


def test_text_that_quotes_the_engines_name_is_not_touched() -> None:
    out = editor().feed(STREAM[1])
    assert json.loads(out[6:])["choices"][0]["delta"]["content"] == 'he said "model":"support@3f2a9c1b7d20"'
    assert json.loads(out[6:])["model"] == "support"


def test_a_text_that_quotes_the_end_marker_does_not_end_the_stream() -> None:
    edit = editor()
    edit.feed(chunk({"content": "data: [DONE]"}))
    assert not edit.done
    edit.feed(chunk({"content": "\n\ndata: [DONE]"}))
    assert not edit.done
    edit.feed(b": a comment\ndata: [DONE]\n\n")
    assert edit.done


@pytest.mark.parametrize("stamp", ENGINE)
@pytest.mark.parametrize("public", [PUBLIC, ENGINE[0], b'"model":"a-longer-name-than-the-engines-own"'])
def test_like_events_are_like_the_first(stamp: bytes, public: bytes) -> None:
    """Deltas that begin with the same bytes take a short way: what comes between them must not."""
    texts = ["a", 'data: {"error": 1}', '"usage":{', "error", "b"]
    deltas = [chunk({"content": text}).replace(ENGINE[0], stamp) for text in texts]
    usage = chunk({"content": "c"}, usage=USAGE).replace(ENGINE[0], stamp)
    other = deltas[0].replace(b"chatcmpl-1", b"chatcmpl-2")
    edit = StreamEditor(CHAT, ENGINE, public, True)
    given = [*deltas, usage, other, *deltas, deltas[0] + deltas[1], STREAM[5]]
    assert [edit.feed(data) for data in given] == [data.replace(stamp, public) for data in given]
    assert edit.usage_event == usage.replace(stamp, public) and edit.done and edit.error is None


def test_nothing_overtakes_an_event_that_is_not_whole() -> None:
    edit, (_, first, second, *_) = editor(), STREAM
    edit.feed(first)
    assert edit.feed(first[:20]) == b""
    assert edit.feed(first[20:] + second) == (first + second).replace(ENGINE[0], PUBLIC)
    assert edit.feed(first) == first.replace(ENGINE[0], PUBLIC)


@pytest.mark.parametrize("rest", [b"\0}]}\n\n", b"}]}\n\n", b"\0\n\n"])
def test_whatever_byte_a_rest_begins_with_it_stays_behind_its_beginning(rest: bytes) -> None:
    edit = editor()
    assert edit.feed(b'data: {"choices":[{"x":1') == b""
    assert edit.feed(rest) == b'data: {"choices":[{"x":1' + rest


def test_after_an_error_not_even_a_like_event_passes() -> None:
    edit = editor()
    edit.feed(STREAM[1])
    edit.feed(STREAM[1])
    assert edit.feed(b'data: {"error":{"message":"x"}}\n\n') == b""
    assert edit.feed(STREAM[1]) == b""


def test_usage_the_client_asked_for_stays() -> None:
    assert editor(strip=False).feed(STREAM[4]) == STREAM[4].replace(ENGINE[0], PUBLIC)
    continuous = chunk({"content": "x"}, usage=USAGE)
    assert editor().feed(continuous) == continuous.replace(ENGINE[0], PUBLIC)


def test_the_first_content_is_not_the_role() -> None:
    edit = editor()
    edit.feed(STREAM[0])
    assert not edit.content
    edit.feed(STREAM[1])
    assert edit.content


def test_an_engines_error_ends_the_stream_without_its_end_marker() -> None:
    edit = editor()
    failure = b'data: {"error":{"message":"EngineCore died","code":500}}\n\n'
    assert edit.feed(STREAM[1] + failure + b"data: [DONE]\n\n") == STREAM[1].replace(ENGINE[0], PUBLIC)
    assert edit.error is not None and json.loads(edit.error)["error"]["code"] == 500
    assert not edit.done
    assert edit.feed(STREAM[1]) == b""


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])
def test_named_error_events(endpoint: object) -> None:
    edit = StreamEditor(endpoint, ENGINE, PUBLIC, False)  # type: ignore[arg-type]  # parametrize gives objects
    assert edit.feed(b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n') == b""
    assert edit.error == b'{"type":"error","error":{"message":"x"}}'


def test_a_stream_without_end_marker_is_not_done() -> None:
    edit = editor()
    edit.feed(STREAM[1])
    assert edit.flush() == b"" and not edit.done


def test_a_last_event_without_blank_line_is_not_lost() -> None:
    edit = editor()
    assert edit.feed(b"data: [DONE]") == b""
    assert edit.flush() == b"data: [DONE]\n\n" and edit.done


def test_an_event_without_end_is_refused() -> None:
    edit = editor()
    with pytest.raises(ValueError, match="no end"):
        for _ in range(MAX_EVENT // (1 << 20) + 2):
            edit.feed(b"x" * (1 << 20))


def test_restamp_takes_both_spellings_and_nested_ones() -> None:
    assert restamp(b'{"model": "support@3f2a9c1b7d20"}', ENGINE, PUBLIC) == b'{"model":"support"}'
    nested = b'{"response":{"model":"support@3f2a9c1b7d20"},"model":"support@3f2a9c1b7d20"}'
    assert restamp(nested, ENGINE, PUBLIC).count(PUBLIC) == 2


def test_usage_of_every_endpoint() -> None:
    assert read_usage(b'{"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}').input_tokens == 7
    assert read_usage(b'{"usage": {"input_tokens": 7, "output_tokens": 3}}').output_tokens == 3
    assert read_usage(b'{"usage":null}').output_tokens is None
    assert read_usage(b"{}").input_tokens is None


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b'{"message":{"role":"assistant","content":"hi"}}', True), (b'{"message":{"content":""}}', False),
        (b'{"message": {"content": "hi"}}', True), (b'{"message": {"content": null, "tool_calls": []}}', False),
        (b'{"message":{"content":null,"tool_calls":[{"function":{"name":"f"}}]}}', True),
        (b'{"message":{"content":"","reasoning_content":"hm"}}', True), (b'{"text":"hi"}', True),
        (b'{"choices":[{"text":""},{"text": "x"}]}', True), (b'{"text":{"format":{"type":"text"}}}', False),
        (b'{"content":[{"type":"tool_use","name":"f","input":{}}]}', True), (b'{"content":[]}', False),
        (b'{"choices":[{"content":"\\""}]}', True), (b'{"content":"', False), (b"", False),
    ],
)  # fmt: skip
def test_what_counts_as_written(data: bytes, written: bool) -> None:
    assert is_written(data) is written
