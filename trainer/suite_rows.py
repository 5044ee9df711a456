"""The rows of evaluation suites: prompts as chat messages, with the columns that graders read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError

Message = dict[str, Any]
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: chat messages, further columns, and where it was written."""

    prompt: tuple[Message, ...]
    columns: Mapping[str, Any]
    where: str  # file:line
    should_refuse: bool | None = None

    @property
    def id(self) -> str:
        """16 hex digits over prompt and columns: what pairs two evaluations."""
        text = json.dumps([self.prompt, self.columns, self.should_refuse], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_different(rows: Sequence[Row]) -> None:
    """Raise TrainingError for a row that is there twice: it would count twice, and make intervals too narrow."""
    seen: dict[str, str] = {}
    for row in rows:
        if row.id in seen:
            raise TrainingError(f"{row.where}: the same row as {seen[row.id]}: every prompt must be there once")
        seen[row.id] = row.where


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file; empty lines are passed over. Raises TrainingError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(line, f"{path}:{number}")


def _row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # what cannot be sent is refused here
    except (ValueError, RecursionError) as error:
        raise TrainingError(f'{where}: not JSON ({error}): expected {{"prompt": [...], …}}') from None
    if not isinstance(values, dict) or "prompt" not in values:
        raise TrainingError(f'{where}: expected an object with "prompt", such as {{"prompt": [...], "answer": "…"}}')
    label = values.pop("should_refuse", None)
    if label is not None and type(label) is not bool:
        raise TrainingError(f"{where}: should_refuse is {label!r}: write true or false")
    return Row(_messages(values.pop("prompt"), where), values, where, label)


def _messages(prompt: Any, where: str) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt:
        return ({"role": "user", "content": prompt},)
    good = (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str | list) for m in prompt
        )
    )
    if not good or prompt[-1]["role"] not in ("user", "tool"):
        wanted = '[{"role": "user", "content": "…"}], ending with the user\'s message'
        raise TrainingError(f"{where}: prompt is not a list of chat messages: expected {wanted}")
    return tuple(prompt)
