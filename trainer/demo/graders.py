"""A verifier for production: the demo's tasks can be solved from their prompt, so every answer can be checked.

    [[rewards.grader]]
    name = "trainer.demo.graders:right"
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

_ANSWERS: MappingProxyType[str, Callable[..., str]] = MappingProxyType({
    "add": lambda a, b: str(int(a) + int(b)),
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "upper": lambda word: word.upper(),
    "last": lambda word: word[-1],
    "count": lambda letter, word: str(word.count(letter)),
})


def solve(prompt: str) -> str | None:
    """The only right answer to a prompt of trainer.demo.world; None for other prompts."""
    task, *given = prompt.split() or [""]
    try:
        return _ANSWERS[task](*given)
    except (KeyError, TypeError, ValueError):
        return None


def right(prompt: Any, completion: str, **columns: Any) -> float | None:
    """1.0 for exactly the right answer to the last user turn, 0.0 for another; None when it cannot be known."""
    asked = next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), None)
    answer = solve(asked) if isinstance(asked, str) else None
    return None if answer is None else float(completion == answer)
