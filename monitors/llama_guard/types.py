"""What the guard service passes around: items in, prompts for the back end, scores, and results out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adapters.errors import UnderstudyError
from monitors.llama_guard.conversation import Message
from monitors.llama_guard.prompt import Role


class GuardError(UnderstudyError):
    """The guard cannot be loaded, or does not do what a guard does."""


class GuardUnavailable(GuardError):
    """The engine behind the guard cannot be reached now."""


@dataclass(frozen=True, slots=True)
class Item:
    """One text to judge: the last message of `role`. `text`: that message, where `messages` ends before it."""

    id: str
    role: Role
    messages: Sequence[Message]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """safe (no flag), unsafe with categories, or unavailable with a reason: nothing is known, which is never safe.

    `score`: the largest P(unsafe) of any part, calibrated, 0..1. `scores`: the same by category, of what was asked for.
    """

    id: str
    unsafe: bool = False
    score: float | None = None
    categories: tuple[str, ...] = ()
    unavailable: bool = False
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """safe, unsafe or unavailable."""
        return "unsafe" if self.unsafe else "unavailable" if self.unavailable else "safe"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a rendered prompt with the two newlines that open a verdict. `head`: how many all such begin with.

    `codes`: the categories it lists; empty when they need not be asked for (there is one).
    """

    ids: tuple[int, ...]
    head: int = 0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """margin = log P(unsafe) − log P(safe) of the next token; None: the guard said neither (`reason`).

    `written`: the whole verdict as it wrote it when told that it begins with unsafe; None where that was not asked.
    """

    margin: float | None
    written: str | None = None
    reason: str = ""


class Backend(Protocol):
    """Where the guard's weights run. One call at a time, from any thread."""

    name: str

    def prepare(self, heads: Sequence[tuple[int, ...]]) -> None:
        """Load, check, and get ready for prompts that begin with these. Raises GuardError."""

    def score(self, prompts: Sequence[Prompt], ask_above: float) -> list[Scored]:
        """One per prompt. Categories are asked for where the margin is at least `ask_above`. Raises GuardError."""


Tokenizer = Any
"""As transformers loads it: callable, with apply_chat_template and decode."""
