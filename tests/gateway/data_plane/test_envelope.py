import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, OpenAI, Stream

from gateway.data_plane.envelope import render, sse_error, translate
from gateway.errors import ApiError, bad_gateway, model_not_found, rate_limited

ENGINE, PUBLIC = "support@3f2a9c1b7d20", "support"


def body_of(error: ApiError) -> dict[str, Any]:
    """The envelope, after checking its form."""
    status, headers, body = render(error)
    assert status == error.status
    assert dict(headers)[b"content-type"] == b"application/json"
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    found = json.loads(body)
    assert list(found) == ["error"]
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert isinstance(found["error"]["message"], str)
    assert found["error"]["message"]
    assert isinstance(found["error"]["type"], str)
    assert found["error"]["code"] is None or isinstance(found["error"]["code"], str)
    assert found["error"]["param"] is None or isinstance(found["error"]["param"], str)
    fields: dict[str, Any] = found["error"]
    return fields


def test_render() -> None:
    fields = body_of(model_not_found("nobody"))
    assert fields["code"] == "model_not_found"
    assert fields["param"] == "model"
    headers = dict(render(rate_limited("too many", 2.0, headers=[("x-ratelimit-limit-requests", "5")]))[1])
    assert headers[b"retry-after"] == b"2"
    assert headers[b"x-ratelimit-limit-requests"] == b"5"


@pytest.mark.parametrize(
    ("status", "body", "expected", "message", "param"),
    [
        # vLLM: nested, code is a number
        (
            400,
            {
                "error": {
                    "message": "max_tokens must be at least 1",
                    "type": "BadRequestError",
                    "param": "max_tokens",
                    "code": 400,
                }
            },
            400,
            "max_tokens must be at least 1",
            "max_tokens",
        ),
        # older vLLM: flat
        (
            400,
            {"object": "error", "message": "bad prompt", "type": "BadRequestError", "param": None, "code": 400},
            400,
            "bad prompt",
            None,
        ),
        # vLLM on /v1/messages: Anthropic's shape
        (
            400,
            {"type": "error", "error": {"type": "BadRequestError", "message": "no messages"}},
            400,
            "no messages",
            None,
        ),
        # FastAPI
        (404, {"detail": "Not Found"}, 404, "the engine does not offer this endpoint for the model it serves", None),
        (404, {"detail": "Gone fishing"}, 404, "Gone fishing", None),
        # vLLM 0.32 prints pydantic's list as Python
        (
            400,
            {
                "error": {
                    "message": "2 validation errors:\n  {'type': 'x', 'loc': 'body.top_p', 'msg': \"can't be 'hot'\", "
                    "'input': 'hot'}\n  {'type': 'y', 'loc': 'body.n', 'msg': 'other', 'input': 'z'}",
                    "type": "Bad Request",
                    "param": "body.top_p",
                    "code": 400,
                }
            },
            400,
            "top_p: can't be 'hot'",
            "top_p",
        ),
        (400, {"error": {"message": "1 validation error:\n  strange"}}, 400, "1 validation error:   strange", None),
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": "must be positive", "type": "x"}, {"loc": [], "msg": "y"}]},
            422,
            "n: must be positive",
            "n",
        ),
        (422, {"detail": [{"msg": "must be positive"}]}, 422, "must be positive", None),
        (400, {"detail": {"error": "strange"}}, 400, "the engine refused the request", None),
        (400, {"error": None}, 400, "the engine refused the request", None),
        (501, {"error": {"message": "no beam search", "code": 501}}, 400, "no beam search", None),
        (413, {}, 413, "the request is too large for the engine", None),
    ],
)
def test_what_the_client_got_wrong_keeps_the_engines_words(
    status: int, body: object, expected: int, message: str, param: str | None
) -> None:
    fields = body_of(error := translate(status, orjson.dumps(body), PUBLIC, ENGINE))
    assert error.status == expected
    assert (fields["message"], fields["param"]) == (message, param)


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (401, b'{"error":"Unauthorized"}', 502, "upstream_refused"),
        (403, b'{"error":{"message":"forbidden"}}', 502, "upstream_refused"),
        (500, b'{"error":{"message":"CUDA out of memory at /opt/vllm/x.py","code":500}}', 502, "upstream_error"),
        (400, b'{"error":{"message":"Out of range float values are not JSON compliant"}}', 502, "upstream_not_finite"),
        (408, b"", 504, "upstream_timeout"),
        (504, b"<html>nginx</html>", 504, "upstream_timeout"),
        (429, b"", 503, "upstream_busy"),
        (503, b"", 503, "upstream_busy"),
        (502, b"<html>", 502, "upstream_error"),
        (418, b"", 502, "upstream_error"),
        (302, b"", 502, "upstream_error"),
        (0, b"", 502, "upstream_error"),
    ],
)
def test_the_engines_own_affairs_are_a_5xx_without_its_words(
    status: int, body: bytes, expected: int, code: str
) -> None:
    fields = body_of(error := translate(status, body, PUBLIC, ENGINE))
    assert (error.status, fields["code"]) == (expected, code)
    assert "vllm" not in fields["message"].lower()
    assert ("retry-after" in dict(error.headers)) == (expected == 503)


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b"<html><h1>502</h1></html>",
    b"[" * 5000,
    b'{"error":[1]}',
    b'{"error":{"message":7}}',
    b'{"detail":[]}',
    b'{"detail":[7]}',
    b'{"detail":[{"msg":7}]}',
    b'{"detail":[{"msg":"m","loc":7}]}',
]


@pytest.mark.parametrize("body", GARBAGE)
@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_garbage_still_gives_an_envelope(status: int, body: bytes) -> None:
    body_of(translate(status, body, PUBLIC, ENGINE))


KEYS = st.sampled_from(["error", "detail", "message", "param", "loc", "msg", "code"])
JSON = st.recursive(
    st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(st.integers(0, 999), st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_engine_sends(status: int, body: bytes) -> None:
    error = translate(status, body, PUBLIC, ENGINE)
    body_of(error)
    assert error.status in {400, 404, 409, 413, 422, 502, 503, 504}


def test_internals_are_not_passed_on() -> None:
    message = f"adapter {ENGINE} at /data/artifacts/3f/2a9c/adapter failed;\r\n see /v1/chat/completions\x1b[31m"
    error = translate(400, orjson.dumps({"error": {"message": message}}), PUBLIC, ENGINE)
    assert error.message == "adapter support at [path] failed;  see /v1/chat/completions [31m"
    assert len(translate(400, orjson.dumps({"error": "x" * 100_000})).message) == 2000
    assert ENGINE in error.detail  # the log has all of it


@pytest.mark.parametrize(
    ("endpoint", "start"),
    [
        ("chat", b'data: {"error":{"message":'),
        ("completions", b'data: {"error":{"message":'),
        ("responses", b'event: error\ndata: {"type":"error",'),
        ("messages", b'event: error\ndata: {"type":"error","error":{"message":'),
    ],
)
def test_sse_error_is_one_event_that_openais_parser_raises(endpoint: str, start: bytes) -> None:
    event = sse_error(bad_gateway("line\nbreaks\r\n\r\ndata: [DONE]"), endpoint)
    assert event.startswith(start)
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    assert b"\r" not in event

    import httpx

    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=event)
    )
    http = httpx.Client(transport=transport)
    client = OpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0)
    with pytest.raises(APIError, match="the engine failed"):
        list(client.post("/x", body={}, cast_to=object, stream=True, stream_cls=Stream[object]))
