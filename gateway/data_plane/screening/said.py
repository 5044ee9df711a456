"""What a model says in an answer: every string in it that is not structure, by choice, in streams and whole answers.

What is unknown counts as text: new kinds of content must not pass unjudged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

Path = tuple[str | int, ...]
Fields = dict[str, Any]

# Keys whose strings the engine writes, not the model.
_STRUCTURE = frozenset({
    "role", "type", "id", "call_id", "item_id", "finish_reason", "stop_reason", "stop_sequence", "object", "model",
    "status", "signature", "encrypted_content", "recipient", "channel", "logprobs", "annotations", "usage",
})  # fmt: skip
_WRITTEN = ("delta", "message", "text")  # of a choice
_CALLS = ("input", "arguments")  # objects of which the model wrote everything, keys included
_CHARACTERS = 4  # of a token, on average: an event may bring several tokens
_ENDS = frozenset({
    "message_delta", "message_stop", "response.completed", "response.incomplete", "response.failed",
})  # fmt: skip


@dataclass(slots=True)
class Heard:
    """What one event of a stream says. `ends`: choices that are complete with it."""

    texts: list[tuple[int, Path, str]] = field(default_factory=list)  # choice, where, what is new
    whole: list[str] = field(default_factory=list)  # of choice 0: what may repeat earlier deltas
    ends: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)  # that it mentions
    kind: str = ""
    index: int = 0
    sequence: int = -1
    fields: Fields = field(default_factory=dict)


class Said:
    """All text of one choice so far. `length` in characters, `tokens` as an estimate: one for each event, at least."""

    __slots__ = ("_parts", "length", "tokens")

    def __init__(self) -> None:
        self._parts: dict[Path, list[str]] = {}
        self.length = 0
        self.tokens = 0

    def add(self, where: Path, text: str) -> None:
        """More of the part that is at `where`."""
        self._parts.setdefault(where, []).append(text)
        self.length += len(text)
        self.tokens += max(1, len(text) // _CHARACTERS)

    def text(self) -> str:
        """Everything, parts in the order in which they began."""
        return "\n\n".join("".join(pieces) for pieces in self._parts.values())

    def __contains__(self, text: str) -> bool:
        return any(text in "".join(pieces) for pieces in self._parts.values())


def strings(value: Any, where: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every string in `value` that is not structure, and where it stands."""
    if isinstance(value, str):
        if value:
            yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in _CALLS and isinstance(inner, dict | list):
                yield from [((*where, key), orjson.dumps(inner).decode())] if inner else ()
            elif key not in _STRUCTURE:
                yield from strings(inner, (*where, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            index = inner.get("index", place) if isinstance(inner, dict) else place
            yield from strings(inner, (*where, index if isinstance(index, int) else place))


def hear(endpoint: str, event: bytes) -> Heard:
    """What one event says. One that cannot be read is text as it is."""
    data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
    if not data or data == b"[DONE]":
        return Heard()
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return Heard([(0, ("?",), data.decode("utf-8", "replace"))])
    if not isinstance(fields, dict):
        return Heard([(0, where, text) for where, text in strings(fields)])
    heard = Heard(fields=fields)
    if endpoint in ("chat", "completions"):
        _choices(fields, heard)
    else:
        _named(endpoint, fields, heard)
    return heard


def hear_whole(endpoint: str, body: bytes) -> tuple[dict[int, Said], Fields | None]:
    """The choices of an unstreamed answer, and the answer; None for one that is no JSON object."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    said: dict[int, Said] = {}
    if not isinstance(fields, dict):
        said[0] = Said()
        said[0].add((), body.decode("utf-8", "replace"))
        return said, None
    for index, part in _whole(endpoint, fields):
        one = said.setdefault(index, Said())
        for where, text in strings(part):
            one.add(where, text)
    return said, fields


def _whole(endpoint: str, fields: Fields) -> Iterator[tuple[int, Any]]:
    if endpoint == "messages":
        yield 0, fields.get("content")
    elif endpoint == "responses":
        yield 0, fields.get("output")
    else:
        for choice in listed(fields.get("choices")):
            yield index_of(choice), _content(choice)


def _choices(fields: Fields, heard: Heard) -> None:
    for choice in listed(fields.get("choices")):
        index = index_of(choice)
        heard.choices.append(index)
        heard.texts += [(index, where, text) for where, text in _spoken(choice)]
        if choice.get("finish_reason") is not None:
            heard.ends.append(index)


def _named(endpoint: str, fields: Fields, heard: Heard) -> None:
    """Events of /v1/messages and /v1/responses: deltas, and events that bring parts whole, in their place or again."""
    kind, delta = str(fields.get("type")), fields.get("delta")
    heard.kind = kind
    index = fields.get("index", fields.get("output_index", 0))
    heard.index = index if isinstance(index, int) else 0
    sequence = fields.get("sequence_number", -1)
    heard.sequence = sequence if isinstance(sequence, int) else -1
    if kind == "error":
        return
    if kind in _ENDS:
        heard.ends.append(0)
    place: Path = (kind.removesuffix(".delta"), heard.index, str(fields.get("content_index", "")))
    heard.texts += [(0, (*place, *where), text) for where, text in strings(delta)]
    if endpoint == "messages":
        parts = [fields.get("content_block"), content_of(fields.get("message"))]
    else:
        answer = fields.get("response")
        output = answer.get("output") if isinstance(answer, dict) else None
        parts = [fields.get("item"), fields.get("part"), output, fields.get("text"), fields.get("arguments")]
        parts += [fields.get("refusal"), fields.get("input"), fields.get("code")]
    heard.whole = [text for part in parts for _, text in strings(part)]


def _content(choice: Fields) -> Any:
    """The parts of a choice that the model wrote."""
    return [choice.get(name) for name in _WRITTEN]


def _spoken(choice: Fields) -> list[tuple[Path, str]]:
    """strings(_content(choice)), at a third of the time for a delta that is one text."""
    found: list[tuple[Path, str]] = []
    for name in _WRITTEN:
        part = choice.get(name)
        if type(part) is dict:
            for key, inner in part.items():
                if type(inner) is str:
                    if inner and key not in _STRUCTURE:
                        found.append(((key,), inner))
                elif inner is not None:
                    found += strings({key: inner})
        elif part is not None:
            found += strings(part, (name,))
    return found


def content_of(message: Any) -> Any:
    """The content of a message of /v1/messages."""
    return message.get("content") if isinstance(message, dict) else None


def index_of(choice: Fields) -> int:
    """Which choice it is."""
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def listed(value: Any) -> list[Fields]:
    """The objects of a list; nothing for what is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
