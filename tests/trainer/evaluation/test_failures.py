"""Error analysis and counterexamples."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError
from tests.support.suites import make_suite, right, run
from trainer.evaluation.answers import Answer
from trainer.evaluation.failures import clusters, worst_prompts, write_counterexamples


def test_clusters_are_sorted_by_prompts(tmp_path):
    def reply(ask):
        if ask.row_index < 5:
            return ""
        return Answer(error="500: broke") if ask.row_index < 7 else right(0.5)(ask)

    found = clusters(run(tmp_path, make_suite(tmp_path), reply).judged)
    assert [(c["kind"], c["prompts"], c["grader"]) for c in found] == [
        ("wrong", 20, "exact"), ("empty", 5, "exact"), ("error", 2, "exact"),
    ]  # fmt: skip
    assert found[0]["share"] == 0.5 and len(found[0]["examples"]) == 3
    assert found[0]["examples"][0] == {"where": "sums.jsonl:21", "question": "sums 20", "answer": "wrong"}
    assert found[2]["examples"][0]["answer"] == "500: broke"


def test_worst_prompts(tmp_path):
    found = worst_prompts(run(tmp_path, make_suite(tmp_path), right(0.9)).judged)
    assert [row["where"] for row in found] == [f"sums.jsonl:{i}" for i in (37, 38, 39, 40)]
    assert worst_prompts(run(tmp_path, make_suite(tmp_path), right(1.0)).judged) == []


def test_counterexamples_are_rows_to_train_on(tmp_path):
    judged = run(tmp_path, make_suite(tmp_path), right(0.95)).judged["sums"]
    path = tmp_path / "failures.jsonl"
    assert write_counterexamples(path, judged) == 2
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {
        "prompt": [{"role": "user", "content": "sums 38"}], "answer": "38", "label": False, "slice": "sums",
        "completion": [{"role": "assistant", "content": "wrong"}], "kind": "wrong",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be written"):
        write_counterexamples(tmp_path / "no" / "where.jsonl", judged)
