"""Numbers in texts, in exact arithmetic."""

from __future__ import annotations

import pytest

from adapters.errors import GraderError
from monitors.rewards.build import build_grader
from monitors.rewards.number import boxed, last_number
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample


def score(completion, answer, **options):
    return build_grader(RewardSpec(name="number", options=options)).score([Sample((), completion, {"answer": answer})])[0]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("The sum is 42.", "42"),
        ("40 + 2 = 42", 42),
        (r"so \boxed{42}, not 41", 42),
        (r"\boxed{7} no, \boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{\text{about } 42}", 42),
        ("1,234,567.5", 1234567.5),
        ("it is 3/4", 0.75),
        ("-7", "\u22127"),
        ("x = -7", -7),
        ("7-3", 3),
        ("$5", 5),
        ("0", "0.0"),
        ("0.1", "1e-1"),
        ("1e400", "1e400"),
        (".5", "1/2"),
        ("42", ["41", "42"]),
    ],
)
def test_right(completion, answer):
    assert score(completion, answer) == 1.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("", 42), ("none", 42), ("42 or 43", 42), ("NaN", 42), ("inf", 42), ("Infinity", "1e400"), ("1e400", "1e401"),
        ("12e99999", 12), ("12e99999", 1), ("0.30000000000000004", "0.3"), ("9" * 300, 9), ("1/0", 1), ("x42", 42),
        ("\uff14\uff12", 42), (r"\boxed{" * 9, 42), (r"\boxed{} 42", 42), ("1" * 1_000_000, 1), ("1e9999 - 1e9999", 0),
    ],
)  # fmt: skip
def test_wrong(completion, answer):
    assert score(completion, answer) == 0.0


def test_tolerances():
    assert score("3.14", "3.1416", tolerance=0.01) == 1.0
    assert score("3.14", "3.1416", tolerance=0.001) == 0.0
    assert score("1010", 1000, relative=0.01) == 1.0 and score("1011", 1000, relative=0.01) == 0.0


def test_what_counts():
    assert score(r"\boxed{1} then 2", 2, take="last") == 1.0
    assert score("2", 2, take="boxed") == 0.0
    assert score("so 2", 2, take="only") == 0.0 and score(" 2\n", 2, take="only") == 1.0


def test_missing_and_unusable_answers():
    assert score("42", None) is None
    with pytest.raises(GraderError, match="which is no number"):
        score("42", "forty-two")


@pytest.mark.parametrize("text", ["9", "1,", "1,234", "-", "1/", "1e", "\\boxed{", "(", "1 ", ".", "1.2."])
@pytest.mark.timeout(120)  # a quadratic search would take hours
def test_hostile_repetition_is_read_in_linear_time(text):
    hostile = text * (1_000_000 // len(text)) + " 42"
    assert last_number(hostile) == 42
    assert boxed(hostile) is None
