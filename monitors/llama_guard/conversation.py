"""OpenAI-shaped messages → turns of plain text, as a guard can judge them. Nothing a model reads is left out.

Turns are the user's, the assistant's, or data (tool results, documents), in which instructions do not belong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.errors import UnderstudyError

Who = Literal["user", "assistant", "data"]
Message = Mapping[str, Any]

_WHO: dict[str, Who] = {
    "user": "user", "system": "user", "developer": "user", "assistant": "assistant", "tool": "data", "function": "data",
}  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text")
_DATA_PARTS = ("tool_result", "document", "search_result", "function_call_output")
_CALL_PARTS = ("tool_use", "function_call", "custom_tool_call")


class Unreadable(UnderstudyError):
    """A message has content that this guard cannot judge (an image, say), so nothing can be said about it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    who: Who
    text: str


def turns(messages: Iterable[Message]) -> list[Turn]:
    """All turns in order, neighbours of the same kind joined by an empty line. Raises Unreadable.

    System and developer messages count as the user's: a client writes them too. Tool calls are text: their names and
    arguments belong to the assistant's turn.
    """
    joined: list[Turn] = []
    for turn in (turn for message in messages for turn in _of(message) if turn.text.strip()):
        if joined and joined[-1].who == turn.who != "data":
            joined[-1] = Turn(turn.who, f"{joined[-1].text}\n\n{turn.text}")
        else:
            joined.append(turn)
    return joined


def alternating(found: Sequence[Turn], role: Literal["user", "assistant"]) -> list[Turn]:
    """User and assistant in turn, beginning with the user and ending with `role`, as Llama Guard's templates want it.

    To judge a prompt, what the agent said last is left out. Data counts as the user's turn. Raises ValueError when
    there is nothing of `role` to judge.
    """
    joined: list[Turn] = []
    for turn in found:
        who: Who = "assistant" if turn.who == "assistant" else "user"
        if joined and joined[-1].who == who:
            joined[-1] = Turn(who, f"{joined[-1].text}\n\n{turn.text}")
        else:
            joined.append(Turn(who, turn.text))
    if role == "user" and joined and joined[-1].who == "assistant":
        joined.pop()
    if not joined or joined[-1].who != role:
        raise ValueError(f"there is no {role} message to judge")
    return joined if joined[0].who == "user" else [Turn("user", "(nothing)"), *joined]


def _of(message: Message) -> Iterator[Turn]:
    """The turns of one message. Items of /v1/responses that are no messages name their type instead of a role."""
    role = message.get("role")
    if role is None and message.get("type") in (*_DATA_PARTS, *_CALL_PARTS, "reasoning"):
        yield from _part(message, "assistant")
        return
    who = _WHO.get(str(role))
    if who is None:
        raise Unreadable(f"a message has the role {str(role)[:40]!r}, which cannot be judged")
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thought := message.get(name), str):
            yield Turn(who, thought)
    yield from _content(message.get("content"), who)
    if isinstance(refusal := message.get("refusal"), str):
        yield Turn(who, refusal)
    for call in [*(message.get("tool_calls") or ()), *filter(None, [message.get("function_call")])]:
        yield Turn(who, _call(call))


def _content(content: Any, who: Who) -> Iterator[Turn]:
    if content is None:
        return
    if isinstance(content, str):
        yield Turn(who, content)
        return
    if not isinstance(content, list):
        raise Unreadable("a message's content is neither text nor a list of parts")
    for part in content:
        yield from [Turn(who, part)] if isinstance(part, str) else _part(part, who)


def _part(part: Any, who: Who) -> Iterator[Turn]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS:
        yield Turn(who, str(part.get("text") or part.get(kind) or ""))
    elif kind in _CALL_PARTS:
        yield Turn("assistant", _call(part))
    elif kind == "reasoning":
        yield from _content([*(part.get("summary") or ()), *(part.get("content") or ())], who)
    elif kind in _DATA_PARTS:
        yield from _data(part)
    else:
        raise Unreadable(f"a message has a part of type {str(kind)[:40]!r}, which this guard cannot judge")


def _data(part: Mapping[str, Any]) -> Iterator[Turn]:
    """A tool's result or a document: its title and text, wherever the API in question puts it."""
    for name in ("title", "context"):
        if isinstance(text := part.get(name), str):
            yield Turn("data", text)
    source = part.get("source")
    inner = source if isinstance(source, Mapping) else part
    content = next((inner[name] for name in ("content", "output", "data") if inner.get(name) is not None), None)
    if isinstance(source, Mapping) and source.get("type") not in ("text", "content"):
        raise Unreadable(f"a document is of type {str(source.get('type'))[:40]!r}, which this guard cannot judge")
    yield from _content(content, "data")


def _call(call: Any) -> str:
    """A tool call as text: the name, then its arguments."""
    if not isinstance(call, Mapping):
        raise Unreadable("a tool call is not an object")
    if isinstance(inner := call.get("function") or call.get("custom"), Mapping):
        call = inner
    arguments = call.get("arguments", call.get("input", ""))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{call.get('name', '')} {text}".strip()
