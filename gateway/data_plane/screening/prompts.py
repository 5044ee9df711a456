"""What a request gives the model to read, as messages that the guard can judge. Nothing that is text is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.data_plane.screening.said import strings

Message = dict[str, Any]

# Parts that the guard reads (monitors.llama_guard.conversation); beside an answer, others are only mentioned.
_READABLE = frozenset({
    "text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text", "tool_result",
    "document", "search_result", "function_call_output", "tool_use", "function_call", "custom_tool_call", "reasoning",
})  # fmt: skip
_UNREADABLE = [{"type": "token_ids"}]  # of a part of this type the guard says that it cannot judge it


def conversations(endpoint: str, fields: Mapping[str, Any]) -> list[list[Message]]:
    """One list of messages for each prompt of the request: several only for /v1/completions. Empty: it has none."""
    if endpoint == "completions":
        return [[{"role": "user", "content": content}] for content in _prompts(fields)]
    given = fields.get("input") if endpoint == "responses" else fields.get("messages")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns) or not turns:
        return []  # the engine says what is wrong with it
    return [[*_before(fields), *turns]]


def questions(conversation: list[Message]) -> list[Message]:
    """What the guard is asked about one prompt. An answer that the client began itself is judged as an answer."""
    asked: list[Message] = []
    if not any(text.strip() for _, text in strings(conversation)):
        return asked  # there is nothing to judge
    if any(turn.get("role") != "assistant" for turn in conversation):
        asked.append({"role": "user", "messages": conversation})
    last = conversation[-1]
    if last.get("role") == "assistant" and (last.get("content") or last.get("tool_calls")):
        asked.append({"role": "assistant", "messages": conversation})
    return asked


def context(conversation: list[Message]) -> list[Message]:
    """The prompt as it stands beside an answer that is judged: images and the like are judged with the prompt."""
    return [_mentioned(turn) for turn in conversation]


def _before(fields: Mapping[str, Any]) -> Iterator[Message]:
    """What stands before the conversation: instructions, tools with their descriptions, documents."""
    for key in ("instructions", "system"):
        if fields.get(key):
            yield {"role": "system", "content": fields[key]}
    tools = [fields[key] for key in ("tools", "functions") if fields.get(key)]
    if tools:
        yield {"role": "system", "content": orjson.dumps(tools).decode()}
    documents = fields.get("documents")  # vLLM gives them to the chat template
    if documents:
        yield {"role": "tool", "content": orjson.dumps(documents).decode()}


def _prompts(fields: Mapping[str, Any]) -> Iterator[Any]:
    """The contents of the prompts of /v1/completions."""
    prompt, suffix = fields.get("prompt"), fields.get("suffix")
    if fields.get("prompt_embeds"):
        yield _UNREADABLE
    if isinstance(prompt, str):
        prompt = [prompt]
    elif not isinstance(prompt, list) or (prompt and isinstance(prompt[0], int)):
        prompt = [] if prompt is None else [_UNREADABLE]
    for one in prompt:
        if not isinstance(one, str):
            yield _UNREADABLE
        else:
            yield f"{one}\n\n{suffix}" if isinstance(suffix, str) and suffix else one


def _mentioned(turn: Message) -> Message:
    content = turn.get("content")
    if not isinstance(content, list):
        return turn
    return {**turn, "content": [_part(part) for part in content]}


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, str) or kind in _READABLE:
        return part
    return {"type": "text", "text": f"[{str(kind)[:40]}]"}
