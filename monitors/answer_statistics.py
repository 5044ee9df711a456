"""What one answer's text is like, in numbers that cost little: length, repetition, compressibility, narrowness.

Tokens here are words and marks, or characters where a text has no words to speak of: the gateway has no tokenizer.
Duplicate n-grams and distinct-n: Li et al. (NAACL 2016). distinct-n falls with length, so it is taken over windows of
a fixed number of tokens. Compression: Shaib et al. (2024), zlib over at most BLOCK characters.
No numpy: this runs in the data plane.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from monitors.text import compression_ratio, distinct_n, duplicate_ngram_fraction

WINDOW = 32  # tokens
BLOCK = 16 * 1024  # characters of a text that are looked at: more would take milliseconds
MOST_TOKENS = 2048
REMEMBERED = 20_000  # n-grams of earlier answers
N = 4

_WORD = re.compile(r"\w+|[^\w\s]")


def tokenise(text: str) -> list[str]:
    """Words and marks, at most MOST_TOKENS; characters where words would be longer than 12 letters on average."""
    text = text[:BLOCK]
    words = _WORD.findall(text)
    if len(text) > 12 * (len(words) + 1):
        return list(text[:MOST_TOKENS])
    return words[:MOST_TOKENS]


def answer_statistics(text: str, tokens: Sequence[str] | None = None) -> dict[str, float]:
    """Names as in `scores`, without the prefix "text.". What a short text does not have (distinct_4) is missing.

    `tokens`: tokenise(text), where the caller has it already.
    """
    tokens = tokenise(text) if tokens is None else tokens
    found = {
        "characters": float(len(text)),
        "tokens": float(len(tokens)),
        "duplicate_4gram": duplicate_ngram_fraction(tokens, N),
        "compression_ratio": compression_ratio(text[:BLOCK]),
    }
    if len(tokens) >= WINDOW:
        windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens) - WINDOW + 1, WINDOW)]
        found["distinct_4"] = sum(distinct_n(window, N) for window in windows) / len(windows)
    return found


class Repetition:
    """Which part of an answer has been said in other answers before: a bounded set of hashes of 4-grams."""

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._seen: dict[int, None] = {}  # in the order in which they were last said

    def observe(self, tokens: Sequence[str]) -> float | None:
        """Share of the answer's different 4-grams that earlier ones had, 0..1; None for a text shorter than that."""
        grams = set(map(hash, zip(*(tokens[k:] for k in range(N)), strict=False)))
        if not grams:
            return None
        seen = self._seen
        known = 0
        for gram in grams:
            if gram in seen:
                known += 1
                del seen[gram]  # again: to the end, as the newest
            seen[gram] = None
        while len(seen) > self._capacity:
            del seen[next(iter(seen))]
        return known / len(grams)
