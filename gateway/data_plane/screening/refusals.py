"""Refusals in the shape of each endpoint: whole answers, and whole answers of which some choices are blocked.

chat and completions: finish_reason "content_filter"; responses: status "incomplete", reason "content_filter";
messages: stop_reason "refusal" (Anthropic's own name for it).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import orjson

from gateway.data_plane.exchange import Exchange
from gateway.data_plane.screening.said import Fields, index_of, listed
from gateway.data_plane.sse import Usage
from gateway.errors import ApiError, retry_headers

FILTERED = "content_filter"
_ITEM = {"type": "message", "id": "msg_blocked", "role": "assistant", "status": "incomplete"}


def blocked_error(message: str) -> ApiError:
    """400: the prompt is unsafe, or cannot be judged, and the route answers with an error."""
    return ApiError(400, message, code=FILTERED)


def unscreened_error() -> ApiError:
    """503: there is no verdict now, and without one nothing may leave. Retry-After."""
    message = "the content could not be screened right now: try again shortly"
    return ApiError(503, message, type="server_error", code="screening_unavailable", headers=retry_headers(1.0))


def whole(exchange: Exchange, message: str, usage: Usage) -> bytes:
    """The answer to a prompt that is blocked."""
    fields = base(exchange)
    name = exchange.request.endpoint.name
    if name in ("chat", "completions"):
        fields["choices"] = [_choice(name, index, message) for index in range(choices(exchange))]
        fields["usage"] = openai_usage(usage)
        return orjson.dumps(fields)
    return orjson.dumps(_refused(name, fields, message) | {"usage": named_usage(usage, name)})


def edited(name: str, fields: Fields, blocked: Collection[int], message: str) -> bytes:
    """A whole answer without what is blocked of it; the engine's usage stays."""
    if name not in ("chat", "completions"):
        return orjson.dumps(_refused(name, fields, message))
    kept = [
        _choice(name, index_of(choice), message) if index_of(choice) in blocked else choice
        for choice in listed(fields.get("choices"))
    ]
    return orjson.dumps({**fields, "choices": kept})


def base(exchange: Exchange) -> Fields:
    """What an answer of the endpoint begins with, where the engine has said nothing yet."""
    endpoint, now = exchange.request.endpoint, int(time.time())
    fields: Fields = {"id": endpoint.id_prefix + exchange.response_id, "model": exchange.request.model}
    if endpoint.name == "messages":
        return fields | {"type": "message", "role": "assistant", "content": [], "stop_sequence": None}
    if endpoint.name == "responses":
        options = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return fields | {"object": "response", "created_at": now, "output": [], "error": None, **options}
    kind = "chat.completion" if endpoint.name == "chat" else "text_completion"
    return fields | {"object": kind, "created": now}


def choices(exchange: Exchange) -> int:
    """How many choices the request asks for."""
    fields = exchange.request.fields
    prompt = fields.get("prompt") if exchange.request.endpoint.name == "completions" else None
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return (fields.get("n") or 1) * (len(prompt) if several and prompt else 1)


def openai_usage(usage: Usage) -> Fields:
    """As chats and completions have it."""
    given, written = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": given, "completion_tokens": written, "total_tokens": given + written}


def named_usage(usage: Usage, name: str) -> Fields:
    """As messages and responses have it."""
    given, written = usage.input_tokens or 0, usage.output_tokens or 0
    found: Fields = {"input_tokens": given, "output_tokens": written}
    if name == "responses":
        found |= {
            "total_tokens": given + written, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
    return found


def _choice(name: str, index: int, message: str) -> Fields:
    end: dict[str, Any] = {"index": index, "finish_reason": FILTERED, "logprobs": None}
    if name == "completions":
        return end | {"text": ""}
    return end | {"message": {"role": "assistant", "content": "", "refusal": message}}


def _refused(name: str, fields: Fields, message: str) -> Fields:
    if name == "messages":
        text = [{"type": "text", "text": message}] if message else []
        return {**fields, "content": text, "stop_reason": "refusal", "stop_sequence": None}
    item = {**_ITEM, "content": [{"type": "refusal", "refusal": message}]}
    return {**fields, "status": "incomplete", "incomplete_details": {"reason": FILTERED}, "output": [item]}


def incomplete(fields: Fields, message: str, usage: Usage) -> Fields:
    """The response object of /v1/responses at the end of a stream that is blocked."""
    return _refused("responses", fields, message) | {"usage": named_usage(usage, "responses")}
