"""What one answer's text is like, and how much of it has been said before."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.answer_statistics import MOST_TOKENS, WINDOW, Repetition, answer_statistics, tokenise
from monitors.text import compression_ratio, distinct_n


def test_words_marks_and_texts_without_words() -> None:
    assert tokenise("Well, 12+34 = 46!") == ["Well", ",", "12", "+", "34", "=", "46", "!"]
    assert tokenise("a" * 30) == ["a"] * 30  # one word of 30 letters is none
    assert tokenise("") == [] and len(tokenise("x " * 10_000)) == MOST_TOKENS


def test_a_varied_text_and_one_that_loops() -> None:
    varied = " ".join(f"word{n}" for n in range(2 * WINDOW))
    looping = "Sure! " * WINDOW
    good, bad = answer_statistics(varied), answer_statistics(looping)
    assert (good["duplicate_4gram"], good["distinct_4"]) == (0.0, 1.0)
    assert bad["duplicate_4gram"] > 0.9 and bad["distinct_4"] < 0.1
    assert bad["compression_ratio"] > 5 > good["compression_ratio"]
    assert (bad["tokens"], bad["characters"]) == (2 * WINDOW, len(looping))


def test_short_texts_lack_what_they_cannot_have() -> None:
    assert answer_statistics("") == {"characters": 0, "tokens": 0, "duplicate_4gram": 0, "compression_ratio": 1}
    assert "distinct_4" not in answer_statistics("two words")


def test_distinct_4_does_not_fall_with_length() -> None:
    """Over windows of one size: a text twice as long, of the same kind, is as varied."""
    once = [f"w{n % 50}" for n in range(8 * WINDOW)]
    assert answer_statistics(" ".join(once))["distinct_4"] == answer_statistics(" ".join(once * 2))["distinct_4"]
    assert distinct_n(once * 2, 4) < distinct_n(once, 4)


@given(st.text(max_size=6000))
def test_the_small_window_compresses_as_the_large_one(text: str) -> None:
    data = text.encode()
    if data:
        assert compression_ratio(text) == pytest.approx(len(data) / len(zlib.compress(data, 6)), rel=0.02)


def test_repetition_across_answers() -> None:
    seen = Repetition()
    assert seen.observe(["a"] * 3) is None
    assert seen.observe(["the", "cat", "sat", "on", "the", "mat"]) == 0.0
    assert seen.observe(["the", "cat", "sat", "on", "the", "mat"]) == 1.0
    assert seen.observe(["the", "cat", "sat", "on", "a", "chair"]) == pytest.approx(1 / 3)


def test_the_memory_of_earlier_answers_is_bounded() -> None:
    seen = Repetition(capacity=100)
    for number in range(50):
        seen.observe([f"{number}-{k}" for k in range(10)])
    assert len(seen._seen) == 100
    assert seen.observe([f"49-{k}" for k in range(10)]) == 1.0
    assert seen.observe([f"0-{k}" for k in range(10)]) == 0.0
