"""Samples, fingerprints, and when rewards teach nothing."""

from __future__ import annotations

import math

import pytest

from monitors.rewards.types import Sample, check_scores, digest, fingerprint, text_of
from tests.support.python import finish, start_python


def test_the_question_is_the_last_user_message():
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "here"}]
    prompt = ({"role": "user", "content": "first"}, {"role": "user", "content": parts}, {"role": "assistant", "content": "x"})
    assert Sample(prompt, "").question == "look\nhere"
    assert Sample((), "").question == ""
    assert text_of({"role": "user", "content": None}) == ""


def test_a_null_column_is_missing():
    assert Sample((), "", {"answer": None}).column("answer") is None
    assert Sample((), "", {"answer": 0}).column("answer") == 0


def test_fingerprints_do_not_depend_on_the_process_or_the_order_of_keys():
    code = "from monitors.rewards.types import fingerprint; print(fingerprint('k', 1, options={'b': 'é', 'a': [1.5]}))"
    mine = fingerprint("k", 1, options={"a": [1.5], "b": "é"})
    assert finish(start_python(code)).strip() == mine
    assert len({mine, fingerprint("k", 2, options={"a": [1.5], "b": "é"}), fingerprint("l", 1)}) == 3
    assert len(digest("\ud800")) == 64  # what a model can emit can be hashed


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no rewards"),
        ([None, None], "all 2 rewards are missing"),
        ([0.5, math.nan, math.inf], "2 of 3 rewards are not finite (number 1 is nan)"),
        ([0.25] * 8, "all 8 rewards are 0.25"),
        ([0.25] * 8 + [None], "all 8 rewards are 0.25"),
        ([0.25] * 7, None),
        ([0.0] * 9 + [1.0], None),
        ([None, 0.5], None),
    ],
)
def test_rewards_that_teach_nothing(values, reason):
    found = check_scores(values)
    assert found is None if reason is None else reason in found
