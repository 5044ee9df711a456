"""Answers of made-up words with the statistics that production takes of real ones (monitors.answer_statistics)."""

from __future__ import annotations

import bisect
import itertools
import math
import random

from monitors.answer_statistics import Repetition, answer_statistics, tokenise

_WORDS = 3000
_STOCK = (
    "I hope this helps you with your question today !", "Please let me know if there is anything else I can do .",
    "That is a really great question and I am happy to help .", "As always , feel free to reach out at any time .",
)  # fmt: skip


class Writer:
    """Writes answers whose words are drawn by Zipf's law; about 40 words unless they are longer."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"texts/{seed}")
        letters = "etaoinshrdlucmfwypvbgk"
        self._words = ["".join(self._random.choices(letters, k=self._random.randint(2, 9))) for _ in range(_WORDS)]
        self._chances = list(itertools.accumulate(1.0 / rank for rank in range(1, _WORDS + 1)))
        self._repetition = Repetition()

    def signals(self, length: float, filler: float) -> dict[str, float]:
        """Statistics of one answer, by names of monitors.collapse.SIGNALS."""
        count = max(5, round(length * math.exp(self._random.gauss(3.7, 0.4))))
        stock: list[str] = []
        while len(stock) < filler * count:
            stock += self._random.choice(_STOCK).split()
        top = self._chances[-1]
        places = (bisect.bisect(self._chances, self._random.random() * top) for _ in range(count - len(stock)))
        text = " ".join([*(self._words[min(place, _WORDS - 1)] for place in places), *stock])
        tokens = tokenise(text)
        found = answer_statistics(text, tokens)
        repeated = self._repetition.observe(tokens)
        signals = {name: found[name] for name in ("tokens", "duplicate_4gram", "compression_ratio")}
        signals["bytes_per_token"] = found["characters"] / found["compression_ratio"] / max(found["tokens"], 1.0)
        return signals if repeated is None else signals | {"repetition": repeated}
