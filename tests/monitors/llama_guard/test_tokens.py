import math

import pytest

from monitors.llama_guard.tokens import VerdictTokens, verdict_tokens
from monitors.llama_guard.types import GuardError

TOKENS = VerdictTokens(safe=(1, 2), unsafe=(3,))


class Vocabulary:
    """A tokenizer of whole words, each one token."""

    def __init__(self, *words):
        self.words = words
        self.all_special_ids = []

    def get_vocab(self):
        return {word: place for place, word in enumerate(self.words)}

    def decode(self, ids):
        return self.words[ids[0]]

    def __call__(self, text, add_special_tokens):
        known = [place for place, word in enumerate(self.words) if text.startswith(word)]
        return {"input_ids": [max(known, key=lambda place: len(self.words[place]), default=len(self.words))]}


def test_all_beginnings_of_a_verdict_count_and_nothing_else_does():
    found = verdict_tokens(Vocabulary("safe", "s", "sa", " safe", "safely", "unsafe", "un", "u", "x"))
    assert found == VerdictTokens((0, 1, 2), (5, 6, 7))


def test_the_demo_guards_tokens_tell_the_verdicts_apart(tokenizer):
    found = verdict_tokens(tokenizer)
    assert {tokenizer.decode([token]) for token in found.unsafe} >= {"u", "unsafe"}
    assert tokenizer("safe", add_special_tokens=False)["input_ids"][0] in found.safe
    assert not set(found.safe) & set(found.unsafe)


def test_a_tokenizer_that_begins_both_alike_is_refused():
    with pytest.raises(GuardError, match="'unsafe'"):
        verdict_tokens(Vocabulary("safe", "s", "unsafely", "x"))


def test_the_margin_is_the_log_odds_of_all_their_tokens_together():
    logprobs = {1: math.log(0.1), 2: math.log(0.2), 3: math.log(0.6), 9: math.log(0.1)}
    assert TOKENS.scored(logprobs).margin == pytest.approx(math.log(0.6 / 0.3))


def test_a_verdict_beyond_the_known_tokens_counts_as_the_least_of_them():
    known = {3: math.log(0.9), 9: math.log(0.05), 8: math.log(0.01)}
    assert TOKENS.scored(known).margin == pytest.approx(math.log(0.9 / 0.01))


@pytest.mark.parametrize("logprobs", [{}, {9: -0.01}, {1: math.log(0.2), 3: math.log(0.2), 9: math.log(0.6)}, {1: math.nan}])
def test_a_guard_that_says_something_else_gives_no_verdict(logprobs):
    scored = TOKENS.scored(logprobs)
    assert scored.margin is None and scored.reason
