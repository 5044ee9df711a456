"""Fenced blocks of Markdown, found line by line: a pattern would need quadratic time on hostile text."""

from __future__ import annotations

from collections.abc import Container

_FENCE = "```"


def fenced_blocks(text: str, languages: Container[str]) -> list[str]:
    """What closed blocks hold, in order, each with its line ends. `languages`: accepted words after the fence, lower
    case; "" is one without. A block of another language is passed over, an open one is none."""
    blocks: list[str] = []
    inside: list[str] | None = None
    wanted = False
    for line in text.splitlines(keepends=True):
        if not line.startswith(_FENCE):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            wanted = line[len(_FENCE) :].strip().lower() in languages
            inside = []
        elif line.strip() == _FENCE:
            if wanted:
                blocks.append("".join(inside))
            inside = None
        else:
            inside.append(line)
    return blocks
