"""exact, regex and length, also against answers made to break them."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample


def score(name, completion, options=None, **columns):
    return build_grader(RewardSpec(name=name, options=options or {})).score([Sample((), completion, columns)])[0]


@pytest.mark.parametrize(
    ("completion", "answer", "options", "expected"),
    [
        ("Paris", "Paris", {}, 1.0),
        (" Paris", "Paris", {}, 0.0),
        ("paris", "Paris", {}, 0.0),
        (" PARIS\n", "Paris", {"strip": True, "casefold": True}, 1.0),
        ("STRASSE", "straße", {"casefold": True}, 1.0),
        ("b", ["a", "b"], {}, 1.0),
        ("12", 12, {}, 1.0),
        ("x", None, {}, None),
        ("", "", {}, 1.0),
    ],
)
def test_exact(completion, answer, options, expected):
    assert score("exact", completion, options, answer=answer) == expected


def test_a_missing_column_is_a_missing_score():
    assert score("exact", "x") is None
    assert score("exact", "x", {"column": "gold"}, answer="x") is None


@pytest.mark.parametrize("answer", [{"a": 1}, [], True, [None]])
def test_an_answer_of_no_use_is_an_error_and_no_zero(answer):
    with pytest.raises(GraderError, match="column 'answer' holds"):
        score("exact", "x", answer=answer)


@pytest.mark.parametrize(
    ("completion", "options", "columns", "expected"),
    [
        ("call 555-1234", {"pattern": r"\d{3}-\d{4}"}, {}, 1.0),
        ("call 555-1234", {"pattern": r"\d{3}-\d{4}", "mode": "fullmatch"}, {}, 0.0),
        ("Sure! Yes", {"pattern": r"\bSure\b", "negate": True}, {}, 0.0),
        ("Yes", {"pattern": r"\bSure\b", "negate": True}, {}, 1.0),
        ("A: 7", {"pattern": r"A: (\d+)", "group": 1, "column": "answer"}, {"answer": 7}, 1.0),
        ("A: 8", {"pattern": r"A: (\d+)", "group": 1, "column": "answer"}, {"answer": 7}, 0.0),
        ("none", {"pattern": r"A: (\d+)", "group": 1, "column": "answer"}, {"answer": 7}, 0.0),
        ("A: 8", {"pattern": r"A: (\d+)", "group": 1, "column": "answer"}, {}, None),
    ],
)
def test_regex(completion, options, columns, expected):
    assert score("regex", completion, options, **columns) == expected


@pytest.mark.parametrize("negate", [False, True])
def test_an_answer_that_makes_a_pattern_run_for_ever_scores_zero(negate):
    evil = {"pattern": r"^(a|aa|a*)+$", "negate": negate}
    assert score("regex", "a" * 4000 + "!", evil) == 0.0
    assert score("regex", "a" * 300_000, {"pattern": "a"}) == 0.0  # and an overlong one does not match


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "does not compile"),
        ({}, "pattern: Field required"),
        ({"pattern": "a", "group": 1}, "has no group 1"),
        ({"pattern": "a", "negate": True, "column": "x"}, "exclude each other"),
        ({"pattern": "a", "mode": "match"}, "'search' or 'fullmatch'"),
    ],
)
def test_patterns_are_checked_before_a_run(options, message):
    with pytest.raises(ConfigError, match="reward 'regex': options") as caught:
        score("regex", "x", options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("", 0.0), (" \n", 0.0), ("a", 1.0), ("a b", 1.0), ("a b c", 0.75), ("a b c d e", 0.25), ("a " * 9, 0.0)],
)
def test_length_rewards_brevity_within_bounds(completion, expected):
    assert score("length", completion, {"target": 2, "limit": 6}) == expected


def test_length_in_characters_with_a_minimum():
    options = {"target": 10, "limit": 20, "minimum": 5, "unit": "characters"}
    assert [score("length", "x" * n, options) for n in (4, 5, 10, 15, 20, 10**6)] == [0.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    with pytest.raises(ConfigError, match="minimum ≤ target < limit"):
        score("length", "x", {"target": 10, "limit": 10})
