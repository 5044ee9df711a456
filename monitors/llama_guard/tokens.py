"""Which tokens begin `safe` and which `unsafe`: matched by prefix over the vocabulary, checked at the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from monitors.llama_guard.types import GuardError, Scored, Tokenizer

SAFE, UNSAFE = "safe", "unsafe"
LEAST_MASS = 0.5
"""A guard that gives both verdicts together less than this has said something else: unavailable."""


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """Token ids. Both sets are never empty and have nothing in common."""

    safe: tuple[int, ...]
    unsafe: tuple[int, ...]

    def scored(self, logprobs: Mapping[int, float]) -> Scored:
        """The margin from the next token's log probabilities by id (natural logarithm; what is missing is the rest).

        With only the likeliest tokens known, as an engine gives them, a verdict that is not among them counts as the
        least likely one that is.
        """
        if not logprobs or any(math.isnan(value) for value in logprobs.values()):
            return Scored(None, reason="the guard's probabilities are not numbers")
        floor = min(logprobs.values())
        safe, unsafe = (_total(logprobs, ids) for ids in (self.safe, self.unsafe))
        if math.exp(safe) + math.exp(unsafe) < LEAST_MASS:
            return Scored(None, reason="the guard answered neither safe nor unsafe")
        return Scored(max(unsafe, floor) - max(safe, floor))


def verdict_tokens(tokenizer: Tokenizer) -> VerdictTokens:
    """All tokens that are a beginning of one verdict. Raises GuardError when they do not tell the verdicts apart."""
    safe, unsafe = [], []
    for token in set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
        text = tokenizer.decode([token])
        if text and SAFE.startswith(text):
            safe.append(token)
        elif text and UNSAFE.startswith(text):
            unsafe.append(token)
    for word, found in ((SAFE, safe), (UNSAFE, unsafe)):
        first = tokenizer(word, add_special_tokens=False)["input_ids"][:1]
        if not first or first[0] not in found:
            raise GuardError(f"the guard's tokenizer begins {word!r} with a token that tells nothing: no Llama Guard's")
    return VerdictTokens(tuple(sorted(safe)), tuple(sorted(unsafe)))


def _total(logprobs: Mapping[int, float], ids: tuple[int, ...]) -> float:
    """log Σ P over `ids`; minus infinity when none is known."""
    known = [logprobs[token] for token in ids if token in logprobs]
    top = max(known, default=-math.inf)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in known))
