"""What is graded, what grades, and what scores mean. No imports beyond the standard library: every process may use it.

A score is in 0..1, higher is better. None is a missing score: something outside the answer was not there (a column, the
judge, a service). What the answer itself brings about, such as an output that makes a pattern run for ever, scores 0:
a model must not gain from breaking its grader.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Message = dict[str, Any]
Scores = list[float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to grade."""

    prompt: tuple[Message, ...]                      # chat messages: {"role", "content"}
    completion: str                                  # the answer's text
    columns: Mapping[str, Any] = field(default_factory=dict)  # answer, schema, tests, reference, …

    def column(self, name: str) -> Any:
        """The column's value, or None where it is missing or null (datasets fill missing keys with null)."""
        return self.columns.get(name)

    @property
    def question(self) -> str:
        """The text of the last user message; '' where there is none."""
        texts = (text_of(message) for message in reversed(self.prompt) if message.get("role") == "user")
        return next(texts, "")


class Grader(Protocol):
    """Scores answers. Graders are used by one thread at a time unless they say otherwise."""

    @property
    def name(self) -> str:
        """Its name in metrics and reports."""

    @property
    def fingerprint(self) -> str:
        """Digest (64 hex digits) of all that defines it: code version, options, weights, prompts, calibration."""

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One score per sample, in order: finite and in 0..1, or None. Raises GraderError when it is broken."""


@runtime_checkable
class Preparable(Protocol):
    """A grader with something to do before its first score: load weights, ask a service, check a judge for drift."""

    def prepare(self) -> None:
        """Get ready; repeated calls do nothing. Raises GraderUnavailable (try again later) and GraderError."""


@dataclass(frozen=True)
class StoredVersion:
    """A registered version as graders need it."""

    folder: Path                                     # with adapter_config.json and adapter_model.safetensors
    manifest: Mapping[str, Any]
    kind: str                                        # adapters.types.Kind


FindVersion = Callable[[str], StoredVersion]         # "support@3f2a9c1b7d20" → its files


@dataclass(frozen=True)
class Place:
    """Where a grader's configuration was written, and how it finds registered versions."""

    base_dir: Path                                   # relative paths and user modules are looked up here
    find_version: FindVersion | None = None          # None: versions cannot be used here


def text_of(message: Mapping[str, Any]) -> str:
    """A chat message's text: its content, or the text parts of it, joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def fingerprint(kind: str, version: int, **parts: Any) -> str:
    """sha256 over a grader's kind, code version and parts, the same in every process. `parts` must be plain JSON."""
    text = json.dumps({"kind": kind, "version": version, **parts}, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: bytes | str) -> str:
    """sha256 in 64 hex digits, of bytes or of UTF-8 text."""
    return hashlib.sha256(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data).hexdigest()


def is_score(value: Any) -> bool:
    """True for None and for a finite number in 0..1."""
    return value is None or (type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1)


def check_scores(values: Sequence[float | None], constant_from: int = 8) -> str | None:
    """Why nothing can be learned from these scores, in one line; None when something can.

    Looked for: no scores at all, only missing ones, one that is NaN or infinite, and all equal (given at least
    `constant_from` that are present: a handful may be equal by chance).
    """
    if not values:
        return "there are no rewards"
    present = [value for value in values if value is not None]
    if not present:
        return f"all {len(values)} rewards are missing"
    broken = [(place, value) for place, value in enumerate(values) if value is not None and not math.isfinite(value)]
    if broken:
        place, value = broken[0]
        return f"{len(broken)} of {len(values)} rewards are not finite (number {place} is {value})"
    if len(present) >= constant_from and min(present) == max(present):
        return f"all {len(present)} rewards are {present[0]:g}: a constant reward teaches nothing"
    return None
