"""Prompt and answer of one exchange as texts, for statistics and graders: the first choice, without tool calls.

Off the hot path, and only for what is sampled. Nothing here is kept, logged or stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

Message = dict[str, str]

# Where a stream with a single choice has its text. Inside JSON strings quotes are escaped: these can only be keys.
_KEYS = {"chat": b'"content"', "completions": b'"text"'}
_DELTAS = {name: re.compile(rb'%b\s*:\s*"((?:[^"\\]|\\.)*)"' % key) for name, key in _KEYS.items()}
_BACKSLASH, _QUOTE = 92, 34  # `in` finds a number faster than bytes


def prompt_messages(endpoint: str, fields: Mapping[str, Any]) -> list[Message]:
    """The prompt as chat messages with plain texts. Empty when there is none that could be read."""
    if endpoint == "completions":
        prompt = fields.get("prompt")
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    turns: list[Any] = []
    for role, key in (("system", "instructions"), ("system", "system")):
        if fields.get(key):
            turns.append({"role": role, "content": fields[key]})
    given = fields.get("input") if endpoint == "responses" else fields.get("messages")
    turns += [{"role": "user", "content": given}] if isinstance(given, str) else _list(given)
    messages = [(_dict(turn).get("role"), _joined(_dict(turn).get("content"))) for turn in turns]
    return [{"role": role, "content": text} for role, text in messages if isinstance(role, str)]


def answer_text(endpoint: str, data: bytes) -> str:
    """The text of a whole answer or of a stream's events. Empty when it has none, or cannot be read."""
    if data[:1] == b"{":
        return _whole(endpoint, _parsed(data))
    if endpoint in _KEYS and b'"index":1' not in data and b'"index": 1' not in data:
        text = _parsed(b'"%b"' % b"".join(_single_choice(endpoint, data)))
        if isinstance(text, str):
            return text
    return "".join(_delta(endpoint, event) for event in _events(data))


def _single_choice(endpoint: str, data: bytes) -> list[bytes]:
    """The texts as they stand in the events. Without a backslash the next quote ends a text: no pattern is needed."""
    key = _KEYS[endpoint]
    _, *rest = data.split(key + b':"')
    if _BACKSLASH in data or len(rest) != data.count(key):
        return _DELTAS[endpoint].findall(data)
    if rest and _QUOTE not in rest[-1]:
        rest.pop()  # cut off, where only the beginning was kept
    return [piece.partition(b'"')[0] for piece in rest]


def _whole(endpoint: str, body: Any) -> str:
    fields = _dict(body)
    if endpoint == "messages":
        return _joined(fields.get("content"))
    if endpoint == "responses":
        items = [_dict(item) for item in _list(fields.get("output"))]
        return "".join(_joined(item.get("content")) for item in items if item.get("type") == "message")
    choice = _first_choice(fields)
    if endpoint == "completions":
        return _text(choice.get("text"))
    return _joined(_dict(choice.get("message")).get("content"))


def _delta(endpoint: str, event: Mapping[str, Any]) -> str:
    if endpoint == "responses":
        return _text(event.get("delta")) if event.get("type") == "response.output_text.delta" else ""
    if endpoint == "messages":
        return _text(_dict(event.get("delta")).get("text")) if event.get("type") == "content_block_delta" else ""
    choice = _first_choice(event)
    return _text(choice.get("text") if endpoint == "completions" else _dict(choice.get("delta")).get("content"))


def _first_choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    choices = [_dict(choice) for choice in _list(fields.get("choices"))]
    return next((choice for choice in choices if choice.get("index", 0) == 0), {})


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            yield _dict(_parsed(line[6:]))


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # cut off, where only the beginning was kept
        return None


def _joined(content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        return "".join(_text(_dict(part).get("text")) for part in content)
    return _text(content)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
