"""Errors on the wire: ours as OpenAI's envelope, and every error shape of an engine as one of ours."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from adapters.types import Flag
from gateway.errors import ApiError, bad_gateway, gateway_timeout, retry_headers

_LONGEST: Final = 2000  # characters of an engine's message that are passed on
NOT_FINITE, DOWN, BUSY = "upstream_not_finite", "upstream_down", "upstream_busy"  # codes of 502 and 503
# What an engine says (in lower case) → what is wrong. The second is what all requests of a dead vLLM are told.
_SIGNS: Final = (
    ("out of range float", "it computed no number", NOT_FINITE),
    ("enginecore encountered an issue", "it went away", DOWN),
)
_MEANING: Final = {
    NOT_FINITE: Flag.NON_FINITE, DOWN: Flag.ENGINE_DOWN, BUSY: Flag.ENGINE_DOWN, "no_replica": Flag.ENGINE_DOWN,
}  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
_PATH: Final = re.compile(r"(?<![\w./:])/(?!v1/)[\w.@+-]+(?:/[\w.@+-]+){2,}/?")
_VALIDATION: Final = re.compile(r"""\d+ validation errors?:\s+\{.*?'msg': (?:'([^']+)'|"([^"]+)")""", re.DOTALL)
_REFUSED: Final = "the engine refused the request"
_ABSENT: Final = "the engine does not offer this endpoint for the model it serves"

# Engine's status → our status, our code, what to say when the engine says nothing.
_CLIENTS_FAULT: dict[int, tuple[int, str | None, str]] = {
    400: (400, None, _REFUSED),
    404: (404, "not_found", _ABSENT),
    409: (409, "conflict", _REFUSED),
    413: (413, "body_too_large", "the request is too large for the engine"),
    415: (400, None, _REFUSED),
    422: (422, None, _REFUSED),
    501: (400, "not_supported", "the engine does not support this"),
}


def render(error: ApiError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """(status, headers, body) of a whole error answer."""
    body = orjson.dumps({"error": _fields(error)})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers]
    return error.status, headers, body


def sse_error(error: ApiError, endpoint: str) -> bytes:
    """One SSE event for a stream that already began; no end marker follows it.

    /v1/responses and /v1/messages name their events and put a type beside the error; OpenAI's clients look for the
    key `error` on all of them.
    """
    fields = _fields(error)
    if endpoint == "responses":
        flat = {"code": error.code, "message": error.message, "param": error.param}
        return b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", **flat, "error": fields})
    if endpoint == "messages":
        return b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", "error": fields})
    return b"data: %b\n\n" % orjson.dumps({"error": fields})


def meaning(error: ApiError) -> int:
    """What a failure says about the version that was asked: a Flag, or 0 for nothing in particular."""
    return _MEANING.get(error.code or "", 0)


def _fields(error: ApiError) -> dict[str, Any]:
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def translate(status: int, body: bytes, public_model: str = "", engine_model: str = "") -> ApiError:
    """An engine's error answer in the client's terms. Never raises.

    What the client got wrong keeps its status and the engine's message, with the engine's model name replaced; what is
    the engine's own affair is a 5xx whose text only the log sees (`detail`).
    """
    message, param = _read(body)
    detail = f"engine answered {status}: {message[:_LONGEST]}"
    if status in (401, 403):
        return bad_gateway("it refused the gateway's own key", code="upstream_refused", detail=detail)
    for sign, reason, name in _SIGNS:
        if sign in message.lower():
            return bad_gateway(reason, code=name, detail=detail)
    text = _public(message, engine_model, public_model)
    if status in _CLIENTS_FAULT:
        ours, code, fallback = _CLIENTS_FAULT[status]
        return ApiError(ours, text or fallback, param=param, code=code, detail=detail)
    if status in (408, 504):
        return gateway_timeout("it gave up")
    if status in (429, 503):
        text = "the engine has too much to do right now: try again shortly"
        return ApiError(503, text, type="server_error", code=BUSY, headers=retry_headers(1.0), detail=detail)
    return bad_gateway("internal error", detail=detail)


def _read(body: bytes) -> tuple[str, str | None]:
    """(message, param) of whatever an engine sent; ("", None) when it says nothing usable (HTML, empty, garbage)."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", None
    if not isinstance(found, dict):
        return "", None
    inner = found.get("error", found)  # nested, flat, or {"error": "Unauthorized"}
    if isinstance(inner, str):
        return inner, None
    if not isinstance(inner, dict):
        return "", None
    message, param = inner.get("message"), inner.get("param")
    if isinstance(message, str):
        return _first_problem(message, param.removeprefix("body.") if isinstance(param, str) else None)
    return _detail(inner.get("detail"))


def _first_problem(message: str, param: str | None) -> tuple[str, str | None]:
    """vLLM prints pydantic's errors as Python dicts: of those, the first one's text is what a client can use."""
    found = _VALIDATION.match(message)
    if found is None:
        return message, param
    text = found[1] or found[2]
    return (f"{param}: {text}" if param else text), param


def _detail(detail: Any) -> tuple[str, str | None]:
    """FastAPI's {"detail": "Not Found"} and {"detail": [{"loc": ["body", "n"], "msg": "…"}, …]}: the first problem."""
    if isinstance(detail, str):
        return ("" if detail == "Not Found" else detail), None
    if not (isinstance(detail, list) and detail and isinstance(detail[0], dict)):
        return "", None
    message, where = detail[0].get("msg"), detail[0].get("loc")
    if not isinstance(message, str):
        return "", None
    if not isinstance(where, list):
        return message, None
    param = ".".join(str(part) for part in where if part != "body") or None
    return (f"{param}: {message}" if param else message), param


def _public(message: str, engine_model: str, public_model: str) -> str:
    """An engine's message without what is not the client's to know: its model names, file paths, control characters."""
    text = _CONTROL.sub(" ", message[: 2 * _LONGEST]).strip()
    if engine_model and public_model:
        text = text.replace(engine_model, public_model)
    text = _PATH.sub("[path]", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
