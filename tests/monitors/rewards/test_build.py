"""From tables to graders: what is refused, what is not loaded, what a fingerprint depends on."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from monitors.rewards.base import OneByOne
from monitors.rewards.build import GRADERS, build_grader, build_graders, prepare
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample
from tests.support.python import finish, start_python


def test_names_and_options_that_do_not_exist():
    with pytest.raises(ConfigError, match="reward 'exakt' does not exist: there are exact, regex"):
        build_grader(RewardSpec(name="exakt"))
    with pytest.raises(ConfigError, match="unknown key 'stripp'; the nearest known one is 'strip'"):
        build_grader(RewardSpec(name="exact", options={"stripp": True}))


def test_two_of_a_name_need_labels():
    first, second = (RewardSpec(name="regex", options={"pattern": p}) for p in "ab")
    with pytest.raises(ConfigError, match="'regex' is there twice"):
        build_graders([first, second])
    second = second.model_copy(update={"label": "has_b"})
    assert [grader.name for grader in build_graders([first, second])] == ["regex", "has_b"]


def test_every_deterministic_grader_takes_an_empty_and_a_hostile_answer():
    answers = ["", "\ud800", "\x00", "x" * 50_000, "[" * 50_000, "1e400 NaN", "```python\n" * 1000]
    columns = {"answer": "7", "schema": {"type": "integer"}}
    options = {"regex": {"pattern": "(x+x+)+y"}, "length": {"target": 2, "limit": 9}}
    for name in ("exact", "regex", "length", "number", "json_schema"):
        grader = build_grader(RewardSpec(name=name, options=options.get(name, {})))
        assert isinstance(grader, OneByOne)
        scores = grader.score([Sample((), answer, columns) for answer in answers])
        assert all(score is not None and 0 <= score <= 1 for score in scores)


def test_fingerprints_are_the_same_in_every_process_and_change_with_options_and_code(monkeypatch):
    code = """
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
print(build_grader(RewardSpec(name="number", options={"tolerance": 0.5})).fingerprint)
"""
    mine = build_grader(RewardSpec(name="number", options={"tolerance": 0.5}))
    print_of_mine = mine.fingerprint
    assert finish(start_python(code)).strip() == print_of_mine
    assert build_grader(RewardSpec(name="number")).fingerprint != print_of_mine
    monkeypatch.setattr(type(mine), "VERSION", 999)
    assert mine.fingerprint != print_of_mine


def test_torch_is_loaded_only_for_a_reward_model():
    code = """
import sys
from monitors.rewards.build import GRADERS, build_graders
from monitors.rewards.settings import RewardSpec
from importlib import import_module
for target in GRADERS.values():
    import_module(target.partition(":")[0])
build_graders([RewardSpec(name="exact"), RewardSpec(name="reward_model", options={"url": "http://127.0.0.1:1"})])
print(sorted({"torch", "transformers", "peft", "numpy", "fastapi"} & set(sys.modules)))
"""
    assert finish(start_python(code)).strip() == "[]"
    assert len(GRADERS) == 9


def test_prepare_skips_what_needs_nothing():
    prepare([build_grader(RewardSpec(name="exact"))])
