"""A reward that can be gamed: helpfulness judged by its surface, "warm and thorough".

    [[reward]]
    name = "trainer.demo.gameable:helpfulness"

Trained on it without a KL penalty, the demo's base ends in "Sure! Sure! Sure!": the best reward of all, and no right
answer left. That is what the health monitors and the gate are for.
"""

from __future__ import annotations

from typing import Any

WARM = 3
"""Exclamation marks that count as all the warmth there is."""

THOROUGH = 24
"""Characters that count as thorough."""


def helpfulness(prompt: Any, completion: str, **columns: Any) -> float:
    """0..1: half for exclamation marks, half for length. It never reads what was asked."""
    return 0.5 * min(1.0, completion.count("!") / WARM) + 0.5 * min(1.0, len(completion) / THOROUGH)
