"""What is read from a body, and which bytes change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane import protocol
from gateway.data_plane.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from gateway.errors import ApiError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TRICKY = st.sampled_from(['say "model"', '"model": "x"', "model", '\\"model', '{"model":1}', "user", "a\\", "\u2028é"])
KEYS = st.sampled_from(["model", "stream", "user", "messages", "seed", "metadata", "mod\u0065l", "x"]) | TRICKY


def refusal(endpoint: Any, body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        protocol.parse(endpoint, body, max_n=16)
    return caught.value


@given(st.dictionaries(KEYS, JSON | TRICKY, max_size=6), TRICKY, st.booleans(), st.sampled_from([None, 1]))
def test_only_the_models_value_changes(fields: dict[str, Any], name: str, escaped: bool, indent: int | None) -> None:
    fields = {k: v for k, v in fields.items() if k not in ("stream", "n", "user")} | {"model": name}
    body = json.dumps(fields, ensure_ascii=escaped, indent=indent).encode("utf-8", "surrogatepass")
    request = protocol.parse(CHAT, body, max_n=16)
    assert request.model == name
    sent = protocol.rewrite(request, b'"engine@1"', "id")
    assert json.loads(sent) == fields | {"model": "engine@1"}
    start, end = request.span
    assert sent == body[:start] + b'"engine@1"' + body[end:]


@given(st.dictionaries(KEYS, JSON | TRICKY, max_size=6))
def test_the_fast_path_agrees_with_the_scanner(fields: dict[str, Any]) -> None:
    fields = {k: v for k, v in fields.items() if k not in ("stream", "n")} | {"model": "support"}
    body = json.dumps(fields, ensure_ascii=False).encode()
    assert protocol.parse(CHAT, body, 16).span == protocol._scan(body)
    assert {key for key, _, _ in protocol.top_level(body)} == set(fields)


@pytest.mark.parametrize("key", ["model", "stream", "user", "n", "stream_options", "metadata"])
def test_a_key_given_twice_is_refused(key: str) -> None:
    values = {"model": '"a"', "stream": "true", "user": '"u"', "n": "1", "stream_options": "{}", "metadata": "{}"}
    rest = "".join(f'"{k}":{v},' for k, v in values.items() if k == "model" != key)
    body = f'{{{rest}"{key}":{values[key]},"messages":[{{"role":"user"}}],"{key}" : {values[key]}}}'
    assert refusal(CHAT, body.encode()).code == "duplicate_key"


def test_a_key_spelled_with_escapes_is_the_same_key() -> None:
    body = rb'{"model":"a","mod\u0065l":"b","messages":[]}'
    assert refusal(CHAT, body).code == "duplicate_key"
    request = protocol.parse(CHAT, rb'{"messages":["\"model\": \"x\""],"mod\u0065l" :  "b" }', 16)
    assert (request.model, request.body[slice(*request.span)]) == ("b", b'"b"')


def test_nested_keys_of_the_same_name_are_not_duplicates() -> None:
    body = b'{"metadata":{"model":"x","user":"y"},"user":"u","model":"a","messages":[{"role":"user","content":"\\"model\\":"}]}'
    request = protocol.parse(CHAT, body, 16)
    assert (request.model, request.unit) == ("a", "u")
    assert request.body[slice(*request.span)] == b'"a"'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None), (b"[]", None), (b"null", None), (b'{"model":"a"', None), (b'{"model":NaN}', None),
        (b"{}", "model"), (b'{"model":1}', "model"), (b'{"model":""}', "model"), (b'{"model":null}', "model"),
        (b'{"model":"a","stream":"yes"}', "stream"), (b'{"model":"a","n":0}', "n"), (b'{"model":"a","n":17}', "n"),
        (b'{"model":"a","n":true}', "n"), (b'{"model":"a","n":1.5}', "n"), (b"[" * 100_000, None), (b'\xff{"model":"a"}', None),
    ],
)  # fmt: skip
def test_bad_bodies_are_400(body: bytes, param: str | None) -> None:
    error = refusal(CHAT, body)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize("field", [*protocol.DENIED])
def test_denied_fields_are_refused_whatever_their_value(field: str) -> None:
    for value in ("null", "1", '"x"'):
        error = refusal(CHAT, f'{{"model":"a","{field}":{value}}}'.encode())
        assert (error.status, error.code, error.param) == (400, "unsupported_parameter", field)


@pytest.mark.parametrize(
    "fields", ['"background":true', '"store":true', '"echo":true,"logprobs":0', '"echo":true,"logprobs":5']
)
def test_denied_values_are_refused(fields: str) -> None:
    assert refusal(COMPLETIONS, f'{{"model":"a",{fields}}}'.encode()).code == "unsupported_parameter"


@pytest.mark.parametrize(
    "fields", ['"background":false', '"store":false', '"echo":true', '"logprobs":5', '"store":null']
)
def test_harmless_values_of_the_same_fields_pass(fields: str) -> None:
    body = f'{{"model":"a",{fields}}}'.encode()
    assert protocol.rewrite(protocol.parse(COMPLETIONS, body, 16), b'"e"', "i") == body.replace(b'"a"', b'"e"')


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {"include_usage": True}),
        ("null", {"include_usage": True}),
        ("{}", {"include_usage": True}),
        (
            '{"include_usage":false,"continuous_usage_stats":true}',
            {"include_usage": True, "continuous_usage_stats": True},
        ),
    ],
)
def test_usage_is_asked_for_in_streams_that_did_not(options: str | None, expected: dict[str, bool]) -> None:
    extra = "" if options is None else f',"stream_options" : {options} '
    body = f'{{ "stream":true{extra},"model":"a","x":[1,{{"y":","}}]}}'.encode()
    request = protocol.parse(CHAT, body, 16)
    assert request.add_usage
    sent = json.loads(protocol.rewrite(request, b'"e"', "i"))
    assert sent == {"stream": True, "model": "e", "x": [1, {"y": ","}], "stream_options": expected}


def test_usage_that_was_asked_for_is_left_alone() -> None:
    request = protocol.parse(CHAT, b'{"model":"a","stream":true,"stream_options":{"include_usage":true}}', 16)
    assert not request.add_usage
    assert not protocol.parse(RESPONSES, b'{"model":"a","stream":true}', 16).add_usage
    assert not protocol.parse(EMBEDDINGS, b'{"model":"a","stream":true}', 16).stream


def test_the_id_goes_into_the_body_where_the_engine_wants_it_there() -> None:
    request = protocol.parse(RESPONSES, b'{"model":"a","input":"hi"}', 16)
    assert json.loads(protocol.rewrite(request, b'"e"', "XYZ")) == {
        "request_id": "resp_XYZ",
        "model": "e",
        "input": "hi",
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "p"}, "p"), ({"prompt": ["a", "b"]}, "b"), ({"input": "i"}, "i"), ({}, ""), ({"messages": 5}, ""),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "x"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}, 3]}]}, "x"),
        ({"messages": [{"role": "user", "content": None}]}, ""),
    ],
)  # fmt: skip
def test_last_user_text(fields: dict[str, Any], text: str) -> None:
    assert protocol.last_user_text(fields) == text
