"""The one reward function: what TRL hands over, missing scores, and rewards that nothing can be learned from."""

import math

import pytest

from adapters.errors import GraderError, TrainingError
from monitors.rewards.build import build_graders
from monitors.rewards.composite import Composite
from monitors.rewards.settings import RewardSpec
from trainer.reward_function import (
    RewardFunction,
    completion_text,
    distinct_4,
    indexed,
    rows_as_samples,
    scores,
    zero_variance_ratio,
)
from trainer.rl_settings import HealthSettings

PROMPT = [{"role": "user", "content": "last abc"}]


class Scripted:
    """A grader that gives these scores, one list a call."""

    name = "scripted"
    fingerprint = "0" * 64

    def __init__(self, *batches):
        self._batches = list(batches)
        self.asked = []

    def score(self, asked):
        self.asked += asked
        found = self._batches.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def said(text):
    return [{"role": "assistant", "content": text}]


def call(function, count, **columns):
    logged = {}
    found = function(
        prompts=[PROMPT] * count, completions=[said("c")] * count, completion_ids=[[1, 2]] * count,
        log_metric=lambda name, value: logged.update({name: value}), trainer_state=object(), _row=[0] * count, **columns,
    )  # fmt: skip
    return found, logged


def function(*batches, group=2, **settings):
    rows = [{"prompt": PROMPT, "answer": "c"}]
    return RewardFunction(Scripted(*batches), HealthSettings(**settings), num_generations=group, rows=rows)


def test_columns_reach_the_graders_as_they_stand_in_the_file():
    from datasets import Dataset

    schemas = [{"type": "object", "properties": {name: {"type": "string"}}} for name in "ab"]
    rows = [{"prompt": PROMPT, "schema": schema, "tests": None} for schema in schemas]
    data = Dataset.from_list(indexed(rows))  # Arrow would give each schema the properties of both
    grader = Scripted([1.0, 0.0])
    reward = RewardFunction(grader, HealthSettings(), num_generations=2, rows=rows)
    reward(prompts=data["prompt"], completions=[said("c"), said("d")], _row=data["_row"])
    assert [dict(sample.columns) for sample in grader.asked] == [{"schema": schema} for schema in schemas]
    assert [sample.completion for sample in grader.asked] == ["c", "d"]
    assert grader.asked[0].prompt == tuple(PROMPT)
    assert completion_text("plain") == "plain"


def test_a_missing_required_score_is_no_reward_and_a_wrong_answer_is_zero():
    specs = [RewardSpec(name="exact", weight=3), RewardSpec(name="length", options={"target": 1, "limit": 2})]
    rows = [{"prompt": PROMPT, "answer": "c"}, {"prompt": PROMPT}]
    reward = RewardFunction(Composite(build_graders(specs), specs), HealthSettings(), num_generations=3, rows=rows)
    found = reward(
        prompts=[PROMPT] * 3, completions=[said("c"), said("x y"), said("c")], completion_ids=[[1]] * 3,
        _row=[0, 0, 1],
    )  # fmt: skip
    assert found == [1.0, 0.0, None]


def test_zero_variance_is_counted_from_raw_rewards():
    rewards = [1.0, 1.0, 0.0, 1.0, None, None, None, 1.0, None, 0.5]
    #          equal      varies    all missing   one left     one left
    assert zero_variance_ratio(rewards, 2) == pytest.approx(4 / 5)
    assert zero_variance_ratio([], 2) == 0
    _, logged = call(function([1.0, 1.0, 0.0, 1.0]), 4)
    assert logged["health.zero_variance_ratio"] == 0.5
    assert logged["health.missing_ratio"] == 0
    assert logged["health.duplicate_4gram"] == 0


def test_a_reward_that_never_varied_ends_the_run():
    constant = function(*[[0.0] * 4] * 3, constant_steps=3)
    call(constant, 4)
    call(constant, 4)
    with pytest.raises(TrainingError, match=r"every reward of the last 3 steps is 0: .* not varied since the start"):
        call(constant, 4)


def test_a_reward_that_stops_varying_is_exhausted_not_an_error():
    solved = function([0.0, 1.0], *[[1.0, 1.0]] * 2, [1.0, 0.0], *[[1.0, 1.0]] * 2, constant_steps=2)
    for _ in range(2):
        call(solved, 2)
    assert solved.exhausted == ""
    call(solved, 2)
    assert "every reward of the last 2 steps is 1" in solved.exhausted


def test_other_constants_are_not_added_up():
    changing = function([0.1] * 2, [0.2] * 2, [0.3] * 2, constant_steps=2)
    for _ in range(3):
        call(changing, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", 1j])
def test_a_reward_that_is_no_finite_number_ends_the_run(value):
    with pytest.raises(TrainingError, match="no finite number, for 'c' during training"):
        call(function([0.5, value]), 2)


def test_a_reward_that_raises_ends_the_run_in_one_line():
    with pytest.raises(TrainingError, match="reward 'scripted' raised ZeroDivisionError during training: by zero"):
        call(function(ZeroDivisionError("by zero")), 2)
    with pytest.raises(GraderError, match="judge"):  # its own words are clear already
        call(function(GraderError("the judge has drifted")), 2)
    with pytest.raises(TrainingError, match="gave 1 scores for 2 answers"):
        scores(Scripted([1.0]), list(rows_as_samples([{"prompt": PROMPT}] * 2, ["a", "b"])), where="here")


def test_steps_without_any_reward_end_the_run():
    with pytest.raises(TrainingError, match="all 2 rewards of this step are missing"):
        call(function([None, None]), 2)
    patient = function([None, None], [0.0, 1.0], [None, None], [None, None], missing_steps=2)
    for _ in range(3):
        call(patient, 2)
    with pytest.raises(TrainingError, match="all 2 rewards of the last 2 steps are missing"):
        call(patient, 2)


def test_a_resumed_run_goes_on_counting():
    first = function([0.0, 1.0], [1.0, 1.0], constant_steps=2)
    call(first, 2)
    call(first, 2)
    second = function([1.0, 1.0], constant_steps=2)
    second.restore(first.state())
    call(second, 2)
    assert second.exhausted
    fresh = function([0.0, 1.0])
    fresh.restore(function().state())
    assert fresh.state() == function().state()


def test_distinct_4_is_over_all_texts_together():
    assert distinct_4([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0.5
    assert distinct_4([[1, 2, 3, 4], [5, 2, 3, 4]]) == 1.0
    assert distinct_4([[1, 2]]) == 1.0


def test_rows_become_samples():
    (made,) = rows_as_samples([{"prompt": PROMPT, "answer": "c", "tests": None}], ["c"])
    assert (made.completion, dict(made.columns)) == ("c", {"answer": "c"})
