"""Cheap signs of degenerate text: repetition, compressibility, narrowness. Pure Python, usable in any process.

distinct-n: Li et al., "A diversity-promoting objective function" (NAACL 2016). Compression as a measure of
redundancy: Shaib et al., "Standardizing the measurement of text diversity" (2024).
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence

_SHORT = 3800  # bytes: zlib looks back 262 less than its window of 4096


def distinct_n(tokens: Sequence[Hashable], n: int) -> float:
    """Share of different ones among the n-grams, in (0, 1]. Raises ValueError when the text is shorter than n."""
    count = _ngrams(tokens, n)
    return len(set(zip(*(tokens[k:] for k in range(n)), strict=False))) / count


def duplicate_ngram_fraction(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Share of n-grams that have occurred before in the text: 1 − distinct_n; 0 for a text shorter than n."""
    return 1.0 - distinct_n(tokens, n) if len(tokens) >= n else 0.0


def compression_ratio(text: str, level: int = 6) -> float:
    """Bytes of UTF-8 per byte of zlib's: about 1 for short or dense text, high for repetition. 1 for an empty text."""
    data = text.encode("utf-8", "surrogatepass")
    # A window no larger than the text finds the same repetitions, without clearing a quarter of a megabyte first.
    window = 12 if len(data) <= _SHORT else 15
    return len(data) / len(zlib.compress(data, level, window)) if data else 1.0


def unigram_entropy(tokens: Sequence[Hashable]) -> float:
    """Entropy of the token frequencies in nats. Raises ValueError for no tokens."""
    total = _ngrams(tokens, 1)
    return -sum(c / total * math.log(c / total) for c in Counter(tokens).values())


def _ngrams(tokens: Sequence[Hashable], n: int) -> int:
    if n < 1:
        raise ValueError("n must be at least 1")
    if len(tokens) < n:
        raise ValueError(f"{len(tokens)} tokens have no {n}-gram")
    return len(tokens) - n + 1
