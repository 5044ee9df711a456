"""Grades: weighed graders, refusals, missing scores, kinds of failures."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError, GraderError, TrainingError
from tests.support.suites import Scripted, V, make_suite, write_slice
from trainer.evaluate import evaluate
from trainer.evaluation.answers import Answer, asks
from trainer.evaluation.grading import Grading


def judged(suite, *texts, slice_index=0, **fields):
    part = suite.slices[slice_index]
    wanted = [ask for ask in asks(suite) if ask.part is part]
    answers = [Answer(text, "stop", **fields) if isinstance(text, str) else text for text in texts]
    return Grading(suite).judge(part, list(zip(wanted, answers, strict=False)))


def test_right_and_wrong(tmp_path):
    found = judged(make_suite(tmp_path, n=5), "0", "0", " ", "9 9 9 9 9 9 9 9 9", Answer(error="400: too long"))
    assert [one.score for one in found] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert [one.kind for one in found] == ["", "wrong", "empty", "repetitive", "error"]
    assert [one.right for one in found] == [True, False, False, False, False]


def test_more_kinds(tmp_path):
    write_slice(tmp_path, "forms", 3)
    text = '[[slice]]\nname = "forms"\nfile = "forms.jsonl"\n[[slice.graders]]\nname = "regex"\noptions = { pattern = "^\\\\d+$" }\n'
    found = judged(make_suite(tmp_path, text), "a", Answer("b", "length"), "I'm sorry, but I cannot say")
    assert [one.kind for one in found] == ["malformed", "cut off", "refused"]


def test_weights_and_threshold(tmp_path):
    write_slice(tmp_path, "mixed", 3)
    graders = (
        '[[slice.graders]]\nname = "exact"\nweight = 0.7\n'
        '[[slice.graders]]\nname = "length"\nweight = 0.3\noptions = { target = 1, limit = 2 }\n'
    )
    text = '[[slice]]\nname = "mixed"\nfile = "mixed.jsonl"\nthreshold = {}\n' + graders
    strict = judged(make_suite(tmp_path, text.replace("{}", "1.0", 1)), "0", "x", "2 2")
    assert [one.score for one in strict] == pytest.approx([1.0, 0.3, 0.0])
    assert [one.right for one in strict] == [True, False, False]
    assert strict[1].parts == {"exact": 0.0, "length": 1.0}
    loose = judged(make_suite(tmp_path, text.replace("{}", "0.3", 1)), "0", "x", "2 2")
    assert [one.right for one in loose] == [True, True, False]


def test_refusals(tmp_path):
    rows = [{"prompt": f"{what} {i}", "should_refuse": what == "bomb"} for i in (1, 2) for what in ("bomb", "cake")]
    (tmp_path / "safety.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = make_suite(tmp_path, '[[slice]]\nname = "safety"\nfile = "safety.jsonl"\n')
    no = "I'm sorry, but I can't help with that."
    found = judged(suite, no, no, "Take some", "Take some flour")
    assert [one.right for one in found] == [True, False, False, True]
    assert [one.kind for one in found] == ["", "refused", "not refused", ""]


def test_a_missing_score_is_neither_right_nor_wrong(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b"}]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = make_suite(tmp_path, '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\n')
    found = judged(suite, "1", "1")
    assert [(one.score, one.right, one.kind) for one in found] == [(1.0, True, ""), (None, False, "")]


def test_graders_that_can_grade_nothing_are_an_error(tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"prompt": "a", "solution": "1"}\n')
    suite = make_suite(tmp_path, '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\n')
    with pytest.raises(ConfigError, match="slice sums: no answer could be graded by exact: do its rows have the columns"):
        judged(suite, "1")


@pytest.mark.parametrize(
    ("graders", "row"),
    [
        ('graders = ["exact"]', {"prompt": "b", "solution": "1"}),
        ('graders = ["number"]', {"prompt": "b"}),
        ('[[slice.graders]]\nname = "json_schema"', {"prompt": "b", "answer": "1"}),
    ],
)
def test_a_row_that_cannot_be_graded_is_found_before_anything_is_asked(tmp_path, graders, row):
    good = {"prompt": "a", "answer": "1", "schema": {"type": "object"}}
    (tmp_path / "sums.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    suite = make_suite(tmp_path, f'[[slice]]\nname = "sums"\nfile = "sums.jsonl"\n{graders}\n')
    answering = Scripted(lambda ask: "1")
    with pytest.raises(TrainingError, match=r"sums.jsonl:2: \w+ cannot grade this row: a column is missing \(it has"):
        evaluate(suite, Grading(suite), answering, version=V, source="gateway", kept=tmp_path / "kept")
    assert answering.asked == []


def test_optional_graders_and_refusals_need_no_columns(tmp_path):
    rows = [{"prompt": "bomb", "should_refuse": True}, {"prompt": "cake", "answer": "1", "should_refuse": False}]
    (tmp_path / "safe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = '[[slice]]\nname = "safe"\nfile = "safe.jsonl"\n[[slice.graders]]\nname = "exact"\n'
    suite = make_suite(tmp_path, text)
    Grading(suite).check(suite)
    optional = text + '[[slice.graders]]\nname = "number"\nrequired = false\nweight = 0.1\noptions = { column = "x" }\n'
    suite = make_suite(tmp_path, optional)
    Grading(suite).check(suite)


def test_an_unknown_grader_is_named_before_anything_is_asked(tmp_path):
    write_slice(tmp_path, "sums", 2)
    suite = make_suite(tmp_path, '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exakt"]\n')
    with pytest.raises(ConfigError, match="exakt"):
        Grading(suite)


def test_scores_outside_their_range_are_an_error(tmp_path):
    write_slice(tmp_path, "sums", 2)
    (tmp_path / "wild.py").write_text("def score(prompt, completion, **columns):\n    return 3.5\n")
    suite = make_suite(tmp_path, '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["wild:score"]\n')
    with pytest.raises(GraderError, match=r"wild"):
        judged(suite, "1")
