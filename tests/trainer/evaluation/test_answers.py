"""Samples and their seeds; confidence."""

from __future__ import annotations

import math

import pytest

from tests.support.suites import make_suite
from trainer.evaluation.answers import Answer, asks


def test_every_version_gets_the_same_seeds_and_no_two_samples_do(tmp_path):
    text = '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\nsamples = 3\n'
    make_suite(tmp_path, n=5)
    first, second = asks(make_suite(tmp_path, text)), asks(make_suite(tmp_path, text))
    assert [ask.seed for ask in first] == [ask.seed for ask in second]
    assert len({ask.seed for ask in first}) == 15 == len({ask.key for ask in first})
    assert all(0 <= ask.seed < 2**31 for ask in first)
    assert first[0].key == "sums/0/0" and first[-1].key == "sums/4/2"
    assert {ask.seed for ask in asks(make_suite(tmp_path, text, "seed = 1"))}.isdisjoint(ask.seed for ask in first)


def test_confidence():
    answer = Answer("a", logprob=math.log(0.25), logprob_tokens=2)
    assert answer.confidence("sequence") == pytest.approx(0.25)
    assert answer.confidence("token") == pytest.approx(0.5)
    assert answer.confidence("none") is None
    assert Answer("a").confidence("sequence") is None
    assert Answer("a", logprob=1e-9, logprob_tokens=1).confidence("sequence") == 1.0
