"""The little of a request that routing needs, and the few bytes of it that change on the way to the engine.

A body is parsed once for its values; where the top-level `model` stands in the bytes is found without a second parse
in the common case, so that everything the gateway does not interpret reaches the engine byte for byte.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.data_plane.endpoints import Endpoint
from gateway.errors import ApiError, bad_request

# Keys whose value the gateway acts on: given twice, the engine would act on the last and we on who knows which.
INTERPRETED: Final = (
    "model", "stream", "stream_options", "user", "safety_identifier", "n", "metadata", "store", "background",
    "echo", "logprobs", "max_tokens", "max_completion_tokens", "max_output_tokens",
)  # fmt: skip
_QUOTED: Final = {key: f'"{key}"'.encode() for key in INTERPRETED}
_INTERPRETED: Final = frozenset(INTERPRETED)
_AS_KEY: Final = {key: re.compile(rb'"%b"\s*:' % key.encode()) for key in INTERPRETED}

# Never passed on: they steer the engine's internals, kill it (prompt_logprobs; see docs/engine.md), or promise state
# that a gateway over many engines cannot keep.
DENIED: Final = {
    "request_id": "the gateway assigns ids; send x-request-id to correlate",
    "priority": "priorities are the operator's",
    "kv_transfer_params": "it steers engine internals",
    "ec_transfer_params": "it steers engine internals",
    "prompt_logprobs": "it can bring the engine down for everybody",
    "previous_response_id": "answers are not stored: send the conversation in `input`",
}

_SPECIAL: Final = frozenset({*DENIED, "background", "store", "echo"})  # most requests have none

_MODEL: Final = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]')


class ParsedRequest:
    """One inference request. `span` is where the value of the top-level `model` stands in `body`."""

    __slots__ = ("add_usage", "body", "endpoint", "fields", "model", "span", "stream", "unit")

    def __init__(  # noqa: PLR0917 (keywords cost time here)
        self, endpoint: Endpoint, body: bytes, fields: dict[str, Any], model: str, span: tuple[int, int], stream: bool,
        unit: str | None, add_usage: bool,
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.body = body
        self.fields = fields
        self.model = model
        self.span = span
        self.stream = stream
        self.unit = unit
        self.add_usage = add_usage  # the engine is asked for usage that the client did not ask for

    def estimated_tokens(self) -> int:
        """Upper-ish guess for token limits before the engine has counted: 4 bytes a token, plus what may be written."""
        fields = self.fields
        wanted = fields.get("max_completion_tokens") or fields.get("max_output_tokens") or fields.get("max_tokens") or 0
        return len(self.body) // 4 + (wanted if isinstance(wanted, int) and 0 < wanted < 1 << 31 else 16)


def parse(endpoint: Endpoint, body: bytes, max_n: int) -> ParsedRequest:
    """Check what the gateway acts on. Raises ApiError (400), never touches what it does not know."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if type(fields) is not dict:
        raise bad_request("the body must be a JSON object")
    model = fields.get("model")
    if type(model) is not str or not model:
        raise bad_request("`model` is required: name a route, see GET /v1/models", param="model")
    if not _SPECIAL.isdisjoint(fields):
        _refuse_denied(fields)
    count = fields.get("n")
    if count is not None and (type(count) is not int or not 1 <= count <= max_n):
        raise bad_request(f"`n` must be a whole number from 1 to {max_n}", param="n")
    stream = fields.get("stream")
    if stream is not None and type(stream) is not bool:
        raise bad_request("`stream` must be true or false", param="stream")
    stream = stream is True and endpoint.streams
    span = _find_model(body, fields)
    add_usage = stream and endpoint.usage_option and _lacks_usage(fields.get("stream_options"))
    return ParsedRequest(endpoint, body, fields, model, span, stream, _unit(fields), add_usage)


def _lacks_usage(options: Any) -> bool:
    """The client did not ask for usage. False for malformed options: the engine says what is wrong with them."""
    return options is None or (type(options) is dict and options.get("include_usage") is not True)


def _unit(fields: dict[str, Any]) -> str | None:
    """The sticky unit named in the body; another type than string is no unit."""
    for key in ("safety_identifier", "user"):
        value = fields.get(key)
        if type(value) is str and value:
            return value
    return None


def _refuse_denied(fields: dict[str, Any]) -> None:
    """Raises ApiError when one of _SPECIAL is what we do not accept."""
    for key in DENIED.keys() & fields.keys():
        raise _unsupported(key, DENIED[key])
    if fields.get("background"):
        raise _unsupported("background", "answers are not stored")
    if fields.get("store"):
        raise _unsupported("store", "answers are not stored")
    if fields.get("echo") and fields.get("logprobs") is not None:
        raise _unsupported("echo", "with logprobs it can bring the engine down")


def _unsupported(field: str, why: str) -> ApiError:
    return bad_request(f"`{field}` is not accepted here: {why}", field, "unsupported_parameter")


def _find_model(body: bytes, fields: dict[str, Any]) -> tuple[int, int]:
    """Span of the top-level model's value. Raises ApiError when an interpreted key is given twice.

    Fast path: without \\u escapes a key is spelled in one way only. Whatever looks like `"key":` in the bytes includes
    every real one; so if it occurs once, and the parsed object has the key, that occurrence is the top-level key.
    """
    escaped = body.find(b"\\") >= 0  # a single byte is found five times as fast as two
    if escaped and body.find(b"\\u") >= 0:
        return _scan(body)
    for key in _INTERPRETED.intersection(fields):
        if body.count(_QUOTED[key]) != 1 and not _is_single(body, key):
            return _scan(body)
    at = -1 if escaped else body.find(b'"model":"') + 8
    if at > 8:  # as most clients write it, and without a backslash the next quote ends it
        return at, body.index(b'"', at + 1) + 1
    match = _MODEL.search(body)
    return match.span(1) if match else _scan(body)


def _is_single(body: bytes, key: str) -> bool:
    """Whether `key` is spelled once as a key: "user" is also a role, and what follows a colon is a value."""
    quoted = _QUOTED[key]
    if body.count(quoted) - body.count(b":" + quoted) - body.count(b": " + quoted) == 1:
        return True
    return len(_AS_KEY[key].findall(body)) == 1


def _scan(body: bytes) -> tuple[int, int]:
    """Walk the top-level keys of a body known to be a valid JSON object."""
    seen: set[str] = set()
    span = (0, 0)
    for key, start, end in top_level(body):
        if key not in _QUOTED:
            continue
        if key in seen:
            raise bad_request(f"`{key}` is given twice: send it once", key, "duplicate_key")
        seen.add(key)
        if key == "model":
            span = (start, end)
    return span


def top_level(body: bytes) -> list[tuple[str, int, int]]:
    """(key, start, end of its value) for each member of the top-level object, in order, duplicates included."""
    members: list[tuple[str, int, int]] = []
    depth = 0
    key = ""
    start = -1  # of the current member's value; -1: a key is awaited
    last_string = (0, 0)
    for match in _TOKEN.finditer(body):
        token = body[match.start()]
        if token == 0x22:
            last_string = match.span()
        elif token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
            if depth == 0 and start >= 0:
                members.append(_member(body, key, start, match.start()))
        elif depth == 1 and token == 0x3A and start < 0:
            key, start = orjson.loads(body[last_string[0] : last_string[1]]), match.end()
        elif depth == 1 and token == 0x2C:
            members.append(_member(body, key, start, match.start()))
            start = -1
    return members


def _member(body: bytes, key: str, start: int, end: int) -> tuple[str, int, int]:
    """Trim white space around a value."""
    text = body[start:end]
    return key, start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def rewrite(request: ParsedRequest, engine_model: bytes, response_id: str) -> bytes:
    """The body for the engine: its own model name (a JSON string), usage where we need it, our id where that goes."""
    start, end = request.span
    body = request.body
    if not request.add_usage and not request.endpoint.id_in_body:
        return body[:start] + engine_model + body[end:]
    edits = [(start, end, engine_model)]
    extra = b""
    if request.endpoint.id_in_body:
        extra += b'"request_id":"%b",' % (request.endpoint.id_prefix + response_id).encode()
    if request.add_usage and "stream_options" in request.fields:
        where = next((s, e) for key, s, e in top_level(body) if key == "stream_options")
        options = {**(request.fields["stream_options"] or {}), "include_usage": True}
        edits.append((*where, orjson.dumps(options)))
    elif request.add_usage:
        extra += b'"stream_options":{"include_usage":true},'
    if extra:
        brace = body.index(b"{") + 1
        edits.append((brace, brace, extra))
    for first, last, new in sorted(edits, reverse=True):
        body = body[:first] + new + body[last:]
    return body


def last_user_text(fields: dict[str, Any]) -> str:
    """The text of the last user message (or prompt, or input), for task-type rules; empty when there is none."""
    turns = fields.get("messages") or fields.get("input") or fields.get("prompt")
    if isinstance(turns, str):
        return turns
    if not isinstance(turns, list):
        return ""
    for turn in reversed(turns):
        if isinstance(turn, str):
            return turn
        if isinstance(turn, dict) and turn.get("role", "user") == "user":
            return _content_text(turn.get("content"))
    return ""


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in parts if isinstance(text, str))
