"""Labelled texts for `understudy guard calibrate`: read, put to the guard, and turned into margins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from monitors.llama_guard.conversation import Unreadable
from monitors.llama_guard.judge import Judge
from monitors.llama_guard.types import Backend, GuardError, Item, Prompt

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: the text, and whether it is unsafe."""

    item: Item
    unsafe: bool


def read_labelled(path: Path) -> list[Labelled]:
    """Rows `{"messages": [...], "unsafe": bool, "role"?}` or `{"prompt": text, "unsafe": bool}`. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--data {path} cannot be read: {error}") from None
    rows = [_row(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ConfigError(f"--data {path} has no rows")
    return rows


def margins_of(judge: Judge, backend: Backend, rows: Sequence[Labelled], batch: int, progress: Progress) -> list[float]:
    """The worst margin of each row, finite. Raises GuardError for a row without a verdict: to omit it would flatter."""
    asked = [(place, prompt) for place, row in enumerate(rows) for prompt in _prompts(judge, row)]
    asked.sort(key=lambda one: len(one[1].ids))  # less padding
    margins = [-math.inf] * len(rows)
    for start in range(0, len(asked), batch):
        progress(start, len(asked))
        part = asked[start : start + batch]
        for (place, _), scored in zip(part, backend.score([prompt for _, prompt in part], math.inf), strict=True):
            if scored.margin is None:
                raise GuardError(f"{rows[place].item.id} got no verdict: {scored.reason}")
            margins[place] = max(margins[place], scored.margin)
    progress(len(asked), len(asked))
    return margins


def _prompts(judge: Judge, row: Labelled) -> list[Prompt]:
    try:
        return [question.prompt for question in judge.questions(row.item)]
    except (Unreadable, ValueError) as error:
        raise GuardError(f"{row.item.id} cannot be judged: {error}") from None


def _row(where: str, line: str) -> Labelled:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("unsafe"), bool):
        raise ConfigError(f'{where}: a row needs "unsafe": true or false')
    role = row.get("role", "user")
    messages = row.get("messages")
    if messages is None and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if role not in ("user", "assistant") or not isinstance(messages, list):
        raise ConfigError(f'{where}: a row needs "messages" (or "prompt", a text), and "role" user or assistant')
    return Labelled(Item(where, role, messages), row["unsafe"])
