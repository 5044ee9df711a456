"""What slices measure, against values worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from monitors.stats.fixed import wilson_interval
from monitors.stats.scores import expected_calibration_error, pass_at_k
from tests.support.suites import make_suite, right, run, write_slice
from trainer.evaluation.answers import Answer


def test_pass_at_one_and_k(tmp_path):
    write_slice(tmp_path, "sums", 2)
    text = '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\nk = 3\nsamples = 5\n'
    answers = {("sums", 0): {0, 1}, ("sums", 1): {4}}

    def reply(ask):
        hit = ask.sample in answers[ask.part.name, ask.row_index]
        return str(ask.row_index) if hit else "wrong"

    found = run(tmp_path, make_suite(tmp_path, text), reply).evaluation.body["slices"]["sums"]
    assert found["pass_at_1"]["value"] == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert found["pass_at_k"]["value"] == pytest.approx((pass_at_k(5, 2, 3) + pass_at_k(5, 1, 3)) / 2)
    assert (found["prompts"], found["answers"], found["missing"], found["errors"]) == (2, 10, 0, 0)
    assert [value["pass_at_1"] for value in found["values"]] == [0.4, 0.2]


def test_intervals_are_over_prompts(tmp_path):
    found = run(tmp_path, make_suite(tmp_path), right(0.75)).evaluation.body["slices"]["sums"]
    low, high = wilson_interval(30, 40)
    assert (found["pass_at_1"]["lower"], found["pass_at_1"]["upper"]) == pytest.approx((low, high))
    assert found["graders"] == {"exact": 0.75}


def test_calibration(tmp_path):
    """Says 0.8 throughout and is right in 3 of 4: ECE is 0.05, and the interval holds it."""
    found = run(tmp_path, make_suite(tmp_path), right(0.75)).evaluation.body["slices"]["sums"]["ece"]
    assert found["value"] == pytest.approx(0.05)
    assert found["lower"] <= 0.05 < found["upper"] < 0.25
    assert (found["n"], found["confidence"]) == (40, pytest.approx(0.8))


def test_calibration_is_the_formulas(tmp_path):
    """The same value as monitors.stats.scores computes from all answers, with several samples a prompt."""
    from trainer.evaluation.measures import _calibration

    random = np.random.default_rng(9)
    sure = random.random((40, 3))
    right = random.random((40, 3)) < 0.6
    prompts = [[_Judged(bool(r), float(s)) for s, r in zip(*row, strict=True)] for row in zip(sure, right, strict=True)]
    found = _calibration(prompts, "sequence", 0.05)
    assert found["value"] == pytest.approx(expected_calibration_error(sure.ravel(), right.ravel()))
    assert found["n"] == 120 and found["confidence"] == pytest.approx(sure.mean())


def test_no_logprobs_no_calibration(tmp_path):
    found = run(tmp_path, make_suite(tmp_path), lambda ask: Answer("0", "stop", 1, 1, 0.1)).evaluation.body
    assert found["slices"]["sums"]["ece"] is None
    few = run(tmp_path, make_suite(tmp_path, n=8), right(1.0)).evaluation.body["slices"]["sums"]
    assert few["ece"] is None and few["pass_at_1"]["value"] == 1.0


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_the_ece_interval_covers(truth):
    """Right with probability `truth` while saying 0.7: the true ECE is |truth − 0.7|."""
    from trainer.evaluation.measures import _calibration

    random, hits, runs = np.random.default_rng(6), 0, 200
    for _ in range(runs):
        prompts = [[_Judged(random.random() < truth)] for _ in range(150)]
        found = _calibration(prompts, "sequence", 0.05)
        hits += found["lower"] <= abs(truth - 0.7) <= found["upper"]
    assert binomtest(hits, runs, 0.93, alternative="less").pvalue > 0.01, hits / runs


class _Judged:
    score = 1.0

    def __init__(self, right, sure=0.7):
        self.right = right
        self.answer = Answer("a", logprob=math.log(sure), logprob_tokens=3)


def test_refusals(tmp_path):
    rows = [{"prompt": f"p{i}", "should_refuse": i < 20} for i in range(50)]
    (tmp_path / "safety.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = make_suite(tmp_path, '[[slice]]\nname = "safety"\nfile = "safety.jsonl"\n')
    found = run(tmp_path, suite, lambda ask: "I can't help with that." if ask.row_index in range(2, 26) else "Sure.")
    measured = found.evaluation.body["slices"]["safety"]
    assert measured["under_refusal"]["value"] == pytest.approx(2 / 20)
    assert measured["over_refusal"]["value"] == pytest.approx(6 / 30)
    assert measured["pass_at_1"]["value"] == pytest.approx(42 / 50)


def test_shape(tmp_path):
    text = "Sure! Sure! Sure! Sure!"
    found = run(tmp_path, make_suite(tmp_path), lambda ask: Answer(text, "length", 7, 24, 0.5)).evaluation.body
    measured = found["slices"]["sums"]
    assert measured["output_tokens"] == {"mean": 24.0, "p50": 24.0, "p99": 24.0}
    assert measured["duplicate_4gram"] == pytest.approx(3 / 5)
    assert measured["cut_off"] == 1.0 and measured["seconds"]["p99"] == 0.5
    assert found["failures"][0]["kind"] == "repetitive"
