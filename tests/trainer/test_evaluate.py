"""An evaluation as a whole: interrupted and continued, refused by every prompt, north stars and costs."""

from __future__ import annotations

import json

import pytest

from adapters.errors import EngineError, EngineUnavailable
from tests.support.suites import Scripted, V, make_suite, right, run, write_slice
from trainer.evaluate import evaluate, north_star
from trainer.evaluation.answers import Answer
from trainer.evaluation.grading import Grading


def test_the_body_is_plain_json_and_says_what_it_was(tmp_path):
    found = run(tmp_path, make_suite(tmp_path), right(0.75))
    evaluation = found.evaluation
    assert json.loads(json.dumps(evaluation.body, allow_nan=False)) == evaluation.body
    assert (evaluation.version, evaluation.suite, evaluation.source, len(evaluation.suite_digest)) == (V, "s", "gateway", 64)
    assert evaluation.body["north_star"]["value"] == 0.75 and evaluation.body["north_star"]["name"] == "mean"
    assert evaluation.body["cost"] is None and not list((tmp_path / "kept").iterdir())


def test_a_killed_evaluation_goes_on(tmp_path):
    suite, said = make_suite(tmp_path), []

    def dies(ask):
        if ask.row_index == 25:
            raise EngineUnavailable("gone")
        return right(0.75)(ask)

    options = {"version": V, "source": "gateway", "kept": tmp_path / "kept"}
    with pytest.raises(EngineUnavailable):
        evaluate(suite, Grading(suite), Scripted(dies), **options)
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:-9])  # the last line is torn
    second = Scripted(right(0.75))
    found = evaluate(suite, Grading(suite), second, say=said.append, **options)
    assert len(second.asked) == 16 and second.asked[0] == "sums/24/0"
    assert said[0] == "going on after 24 answers of an evaluation that was interrupted"
    whole = run(tmp_path, suite, right(0.75)).evaluation
    assert found.evaluation.body["slices"] == whole.body["slices"]


def test_answers_of_another_environment_are_not_taken(tmp_path):
    suite = make_suite(tmp_path)

    def dies(ask):
        if ask.row_index == 5:
            raise EngineUnavailable("gone")
        return right(1.0)(ask)

    with pytest.raises(EngineUnavailable):
        run(tmp_path, suite, dies)
    other = make_suite(tmp_path, head="seed = 9", n=40)
    answering = Scripted(right(1.0))
    evaluate(other, Grading(other), answering, version=V, source="gateway", kept=tmp_path / "kept")
    assert len(answering.asked) == 40


def test_when_every_prompt_is_refused_nothing_is_concluded(tmp_path):
    with pytest.raises(EngineError, match="every single prompt was refused, the first with 400: too long"):
        run(tmp_path, make_suite(tmp_path), lambda ask: Answer(error="400: too long"))
    assert not list((tmp_path / "kept").iterdir())


def test_costs(tmp_path):
    suite = make_suite(tmp_path, head="price_input = 2.0\nprice_output = 10.0")
    found = run(tmp_path, suite, lambda ask: Answer("0", "stop", 100, 20, 0.1)).evaluation.body
    assert found["cost"] == pytest.approx((100 * 2 + 20 * 10) / 1e6 * 1000)


def test_a_slice_as_north_star(tmp_path):
    write_slice(tmp_path, "sums", 10)
    suite = make_suite(tmp_path, head='north_star = "sums.score"')
    found = run(tmp_path, suite, right(0.5)).evaluation.body
    assert found["north_star"]["name"] == "sums.score" and found["north_star"]["value"] == 0.5
    assert north_star("sums.pass_at_k", {"sums": {"pass_at_k": None}}) is None
