import random

import pytest

from trainer.duplicates import BANDS, ROWS, TestPrompts, jaccard, normalised, repeated, shingles, signature, words

LONG = "the quick brown fox jumps over the lazy dog while the cat sleeps on the warm mat near the old stove today"

LONGER = " ".join(f"{a}{b}" for a in ("ba", "de", "fi", "go", "hu", "ka", "le", "mi") for b in ("no", "pu", "ra", "se", "ti", "vo", "wu", "xa", "ye", "zi"))


def changed(text, count, seed=0):
    """The text with `count` of its words replaced."""
    rng, said = random.Random(seed), text.split()
    for place in rng.sample(range(len(said)), count):
        said[place] = f"word{rng.randrange(10**6)}"
    return " ".join(said)


def test_normalisation_drops_case_space_and_compatibility_forms():
    assert normalised("  Straße\n\t\uff21\uff22\uff23  ") == "strasse abc"
    assert words("上海 is big") == ["上", "海", "is", "big"]


def test_short_texts_repeat_only_when_equal_after_normalisation():
    texts = ["add 12 34", "Add  12 34", "add 12 35", "add 34 12"]
    assert repeated(texts, 0.5) == {1: (0, True)}


def test_long_texts_repeat_when_nearly_equal():
    other = "a completely different sentence " * 6
    texts = [LONGER, changed(LONGER, 2), other, changed(LONGER, 30), LONGER.upper()]
    found = repeated(texts, 0.8)
    assert found == {1: (0, False), 4: (0, True)}


def test_minhash_estimates_the_similarity():
    """The share of equal entries has mean J and variance J(1-J)/128 (Broder 1997): four standard errors."""
    one, other = shingles(words(LONGER)), shingles(words(changed(LONGER, 4)))
    true = jaccard(one, other)
    estimate = float((signature(one) == signature(other)).mean())
    assert 0.3 < true < 0.95
    assert abs(estimate - true) < 4 * (true * (1 - true) / (BANDS * ROWS)) ** 0.5


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Reverse ABC", True),
        ("reverse abd", False),
        (f"Please answer: {' '.join(LONG.split()[3:16])}?", True),     # thirteen words in a row
        (f"Please answer: {' '.join(LONG.split()[3:15])}?", False),    # twelve
        (changed(LONGER, 2), True),
    ],
)
def test_what_a_suite_asks_is_recognised(prompt, asked):
    assert TestPrompts(["reverse abc", LONG, LONGER], 0.8).asks(prompt) is asked
