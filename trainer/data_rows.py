"""Reads JSONL files of training rows; the first wrong line ends it with file, line number and what was expected.

    sft                 {"messages": [...]} or {"prompt": [...], "completion": [...]}
    dpo, reward-model   {"prompt": [...], "chosen": [...], "rejected": [...]}
    kto                 {"prompt": [...], "completion": [...], "label": true}
    grpo, rloo          {"prompt": [...]}; further columns reach the rewards by name

Each list holds chat messages {"role", "content"}; a plain string stands for one message: the user's in a prompt, the
assistant's elsewhere. Further columns are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.config import Algorithm

Message = dict[str, Any]

EXPECTED: Mapping[Algorithm, str] = {
    "sft": '{"messages": [...]} or {"prompt": [...], "completion": [...]}',
    "dpo": '{"prompt": [...], "chosen": [...], "rejected": [...]}',
    "reward-model": '{"prompt": [...], "chosen": [...], "rejected": [...]}',
    "kto": '{"prompt": [...], "completion": [...], "label": true or false}',
    "grpo": '{"prompt": [...], …}',
    "rloo": '{"prompt": [...], …}',
}
_ROLES = ("system", "developer", "user", "assistant", "tool")
_ANSWERS: Mapping[Algorithm, tuple[str, ...]] = {
    "sft": ("completion",), "dpo": ("chosen", "rejected"), "reward-model": ("chosen", "rejected"),
    "kto": ("completion",), "grpo": (), "rloo": (),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row and where it comes from ('file:line'). `data`: prompt and answers as lists of messages, other columns."""

    where: str
    data: dict[str, Any]

    def answers(self) -> list[list[Message]]:
        """What the assistant says in it, one list for each answer; of `messages` rows: nothing."""
        return [self.data[key] for key in ("completion", "chosen", "rejected") if key in self.data]

    def text(self) -> str:
        """All that is said in it, for comparisons: prompt first."""
        said = [*self.data.get("prompt", ()), *self.data.get("messages", ()), *(m for a in self.answers() for m in a)]
        return "\n".join(text_of(message) for message in said)

    def prompt_text(self) -> str:
        """What the model is asked: the last message that is not the assistant's."""
        asked = [m for m in (*self.data.get("prompt", ()), *self.data.get("messages", ())) if m["role"] != "assistant"]
        return text_of(asked[-1]) if asked else ""


@dataclass(frozen=True)
class RowFile:
    """One file: its rows and the SHA-256 of its bytes."""

    path: Path
    rows: list[Row] = field(repr=False)
    digest: str = ""


def text_of(message: Message) -> str:
    """A message's text; what a tool call says, as JSON."""
    said = str(message.get("content") or "")
    calls = message.get("tool_calls")
    return said + json.dumps(calls, sort_keys=True) if calls else said


def read_files(paths: Sequence[Path], algorithm: Algorithm) -> list[RowFile]:
    """Every row of every file. Raises TrainingError: no file, no rows, or the first wrong line."""
    return [read_file(path, algorithm) for path in paths]


def read_file(path: Path, algorithm: Algorithm) -> RowFile:
    """The rows of one file. Raises TrainingError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TrainingError(f"{path} does not exist: expected a JSONL file of {EXPECTED[algorithm]}") from None
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from None
    lines = content.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise TrainingError(f"{path} is empty: expected one JSON object a line, {EXPECTED[algorithm]}")
    rows = [_row(f"{path}:{number}", line, algorithm) for number, line in enumerate(lines, 1)]
    if algorithm == "kto":
        _check_thumbs(path, rows)
    return RowFile(path, rows, hashlib.sha256(content).hexdigest())


def _row(where: str, line: bytes, algorithm: Algorithm) -> Row:
    expected = EXPECTED[algorithm]
    if not line.strip():
        raise TrainingError(f"{where}: the line is empty: expected {expected}")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = str(error).split(":")[0]
        raise TrainingError(f"{where}: not JSON ({said}): expected {expected}") from None
    if not isinstance(found, dict):
        raise TrainingError(f"{where}: not an object: expected {expected}")
    if algorithm == "sft" and "messages" in found:
        return Row(where, {**found, "messages": _conversation(where, found["messages"])})
    made = {**found, "prompt": _prompt(where, found, expected)}
    for name in _ANSWERS[algorithm]:
        made[name] = _answer(where, name, found, expected)
    if algorithm == "kto" and not isinstance(found.get("label"), bool):
        raise TrainingError(f"{where}: label is {_short(found.get('label'))}: expected {expected}")
    if "chosen" in made and made["chosen"] == made["rejected"]:
        raise TrainingError(f"{where}: chosen and rejected are equal: a pair must say which answer is better")
    return Row(where, made)


def _conversation(where: str, value: Any) -> list[Message]:
    messages = _messages(where, "messages", value, "user")
    if not any(message["role"] == "assistant" for message in messages):
        raise TrainingError(f"{where}: messages has no answer of the assistant: there is nothing to learn")
    if messages[-1]["role"] != "assistant":
        raise TrainingError(f"{where}: messages ends with {messages[-1]['role']}: expected the assistant's answer last")
    if messages[0]["role"] == "assistant":
        raise TrainingError(f"{where}: messages begins with the assistant: expected system or user first")
    return messages


def _prompt(where: str, found: dict[str, Any], expected: str) -> list[Message]:
    if "prompt" not in found:
        raise TrainingError(f"{where}: no prompt: expected {expected}")
    messages = _messages(where, "prompt", found["prompt"], "user")
    if messages[-1]["role"] == "assistant":
        raise TrainingError(f"{where}: prompt ends with the assistant: expected a question that is to be answered")
    return messages


def _answer(where: str, name: str, found: dict[str, Any], expected: str) -> list[Message]:
    if name not in found:
        raise TrainingError(f"{where}: no {name}: expected {expected}")
    messages = _messages(where, name, found[name], "assistant")
    if messages[0]["role"] != "assistant" or messages[-1]["role"] != "assistant":
        raise TrainingError(f"{where}: {name} must be what the assistant says, not {messages[-1]['role']}")
    if not any(text_of(message) for message in messages):
        raise TrainingError(f"{where}: {name} says nothing: leave the row out")
    return messages


def _messages(where: str, name: str, value: Any, role: str) -> list[Message]:
    if isinstance(value, str) and value:
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise TrainingError(f"{where}: {name} is {_short(value)}: expected a list of messages with role and content")
    return [_message(where, name, message) for message in value]


def _message(where: str, name: str, message: Any) -> Message:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise TrainingError(f"{where}: {name} has {_short(message)}: expected role (one of {', '.join(_ROLES)})")
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise TrainingError(f"{where}: {name} has content {_short(content)}: expected text")
    return {**message, "content": content or ""}


def _check_thumbs(path: Path, rows: list[Row]) -> None:
    good = sum(row.data["label"] for row in rows)
    if good in (0, len(rows)):
        only = str(good > 0).lower()
        raise TrainingError(f"{path}: all {len(rows)} labels are {only}: KTO needs thumbs of both kinds")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
