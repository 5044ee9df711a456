"""Near-duplicates among rows, and rows that a test suite asks too.

Texts of fewer than SHORT words count as the same only when they are equal after normalisation: similarity of 3-grams
would throw a third of short, legitimate prompts away. Longer ones are compared by the Jaccard similarity of their word
3-grams, found with MinHash (Broder 1997) in bands (locality-sensitive hashing) and then computed exactly.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

SHORT = 20
"""Words below which only equal texts are duplicates."""

OVERLAP = 13
"""Words in a row that a prompt may not share with a test prompt (Brown et al. 2020, appendix C)."""

BANDS, ROWS = 32, 4
"""Pairs of similarity 0.8 share at least one band of four with probability 1 - (1 - 0.8⁴)³² > 0.999999."""

_PRIME = 4294967311  # the first one above 2³²
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")  # scripts without spaces: by character


def normalised(text: str) -> str:
    """The text without what makes no difference: compatibility forms, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words of a normalised text."""
    return _WORD.findall(normalised(text))


def shingles(tokens: Sequence[str], n: int = 3) -> frozenset[int]:
    """CRC-32 of every run of `n` words."""
    grams = (" ".join(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1)))
    return frozenset(zlib.crc32(gram.encode()) for gram in grams)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Shared share of two sets, 0..1."""
    return len(one & other) / len(one | other) if one or other else 1.0


def signature(grams: frozenset[int], seed: int = 1) -> NDArray[np.uint64]:
    """MinHash signature, shape (BANDS · ROWS,): two sets agree in each entry with their Jaccard similarity."""
    random = np.random.default_rng(seed)
    a, b = random.integers(1, 1 << 31, size=(2, BANDS * ROWS, 1), dtype=np.uint64)
    hashes = np.fromiter(grams, dtype=np.uint64)
    smallest: NDArray[np.uint64] = ((a * hashes + b) % np.uint64(_PRIME)).min(axis=1)
    return smallest


class Index:
    """Texts seen so far; `find` says which of them a text repeats."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._exact: dict[str, int] = {}
        self._grams: dict[int, frozenset[int]] = {}
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def find(self, text: str) -> tuple[int, bool] | None:
        """(number of the text it repeats, whether they are equal), or None."""
        if (same := self._exact.get(normalised(text))) is not None:
            return same, True
        tokens = words(text)
        if len(tokens) < SHORT:
            return None
        grams = shingles(tokens)
        candidates = sorted({number for band in _bands(grams) for number in self._bands.get(band, ())})
        near = (number for number in candidates if jaccard(grams, self._grams[number]) >= self._similarity)
        found = next(near, None)
        return None if found is None else (found, False)

    def add(self, text: str, number: int) -> None:
        """Remember a text under a number."""
        self._exact.setdefault(normalised(text), number)
        tokens = words(text)
        if len(tokens) >= SHORT:
            self._grams[number] = grams = shingles(tokens)
            for band in _bands(grams):
                self._bands[band].append(number)


def repeated(texts: Iterable[str], similarity: float) -> dict[int, tuple[int, bool]]:
    """Position of each text that repeats an earlier one → (the earlier one's position, whether they are equal)."""
    index = Index(similarity)
    found: dict[int, tuple[int, bool]] = {}
    for position, text in enumerate(texts):
        if (same := index.find(text)) is not None:
            found[position] = same
        else:
            index.add(text, position)
    return found


class TestPrompts:
    """The prompts of evaluation suites; `asks` says whether training text holds one of them."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, prompts: Iterable[str], similarity: float) -> None:
        self._index = Index(similarity)
        self._runs: set[str] = set()
        for number, prompt in enumerate(prompts):
            self._index.add(prompt, number)
            self._runs.update(_runs(words(prompt)))

    def asks(self, prompt: str) -> bool:
        """True when a test asks the same, nearly the same, or shares OVERLAP words in a row with it."""
        return self._index.find(prompt) is not None or any(run in self._runs for run in _runs(words(prompt)))


def _runs(tokens: Sequence[str]) -> Iterable[str]:
    return (" ".join(tokens[i : i + OVERLAP]) for i in range(len(tokens) - OVERLAP + 1))


def _bands(grams: frozenset[int]) -> list[tuple[int, bytes]]:
    entries = signature(grams)
    return [(band, entries[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
