"""Evaluations are appended and read back whole, newest first."""

from __future__ import annotations

from adapters.evaluation_store import Evaluation, EvaluationStore

V = "support@0123456789ab"


def made(suite="s", **fields):
    return Evaluation(V, suite, "d" * 64, "gateway", {"slices": {"a": [1.0, None]}}, **fields)


def test_what_is_added_is_read_back(database):
    store = EvaluationStore(database)
    assert store.latest(V) is None
    added = store.add(made(at=12.5))
    assert added.id > 0 and added.at == 12.5
    assert store.latest(V) == added
    assert store.latest("support@ffffffffffff") is None


def test_the_newest_of_a_suite_counts(database):
    store = EvaluationStore(database)
    first, other, second = store.add(made()), store.add(made("other")), store.add(made())
    assert store.latest(V, "s") == second and second.at > 0
    assert store.latest(V) == second and store.latest(V, "other") == other
    assert store.newest(V) == {"s": second, "other": other} and store.newest("support@ffffffffffff") == {}
    assert store.list(V) == [second, other, first]
    assert store.list(V, "s", limit=1) == [second]


def test_texts_that_a_model_wrote(database):
    """Bodies hold shortened answers: whatever characters they have come back."""
    store = EvaluationStore(database)
    odd = {"answer": "\ufffd \x07 \u2028 \U0001f600 \x1b[2J'\"\\", "null": None}
    store.add(Evaluation(V, "s", "d" * 64, "gateway", odd))
    found = store.latest(V)
    assert found is not None and found.body == odd
