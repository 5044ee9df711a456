"""Which prompts are kept, and what is said when none is."""

import pytest

from adapters.errors import TrainingError
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
from trainer.prompt_filter import Filtered, filter_prompts, from_json, judge, pass_rate
from trainer.rl_settings import PromptFilterSettings
from trainer.run_directory import RunDirectory
from trainer.sampling import Answer

SETTINGS = PromptFilterSettings()
HALF = [1.0] * 4 + [0.0] * 4


def rewards(*found):
    return dict(enumerate(found))


def test_prompts_between_the_limits_are_kept():
    found = judge(5, rewards([0.0] * 8, [1.0] * 8, HALF, [0.0] * 7 + [1.0], [None] * 7 + [1.0]), SETTINGS)
    assert found.kept == (2, 3)
    assert (found.unsolved, found.solved, found.missing) == (1, 1, 1)
    assert found.pass_rates == (0.0, 1.0, 0.5, 0.125, None)
    assert str(found) == "prompts: 2 of 5 kept; 1 too hard, 1 too easy, 1 without a reward"


def test_limits_can_be_narrower():
    narrow = PromptFilterSettings(low=0.3, high=0.7)
    assert judge(2, rewards(HALF, [0.0] * 7 + [1.0]), narrow).kept == (0,)


def test_a_graded_reward_is_kept_where_it_varies_at_all():
    found = judge(3, rewards([0.1, 0.2] * 4, [0.3] * 8, [0.9, 0.95] * 4), SETTINGS)
    assert found.kept == (0, 2)
    assert pass_rate([0.1, 0.2]) == 0


def rows(count):
    return [{"prompt": [{"role": "user", "content": f"q{i}"}], "answer": str(i)} for i in range(count)]


def sampler(right):
    """Answers prompt i (its only token) rightly in `right(i)` of the samples."""

    def give(prompts, count):
        texts = [[str(ids[0]) if n < right(ids[0]) else "x" for n in range(count)] for ids in prompts]
        return [[Answer(tuple(ids), (1,), text) for text in said] for ids, said in zip(prompts, texts, strict=True)]

    return give


def run(count, right, settings=SETTINGS, **options):
    grader = build_grader(RewardSpec(name="exact"))
    tokens = [[i] for i in range(count)]
    return filter_prompts(rows(count), tokens, grader, settings, sampler=sampler(right), seed=3, **options)


def test_each_prompt_is_judged_by_its_own_answers():
    progress = []
    found = run(10, lambda i: i, batch=4, progress=progress.append)
    assert found.kept == tuple(range(1, 8))
    assert progress == [4, 8, 10]


def test_no_more_than_the_limit_are_tried_and_the_same_ones_again():
    settings = PromptFilterSettings(limit=5)
    found = run(50, lambda i: 4, settings)
    assert len(found.tried) == len(found.kept) == 5
    assert found == run(50, lambda i: 4, settings)
    assert str(found).endswith("45 not tried")


def test_no_more_are_tried_than_the_run_will_use():
    progress = []
    found = run(50, lambda i: i % 2, needed=5, batch=8, progress=progress.append)
    assert len(found.tried) == progress[-1] < 50
    assert 5 <= len(found.kept) < 13
    assert run(50, lambda i: i % 2, needed=100, batch=8).tried == tuple(range(50))


def test_no_prompt_left_is_one_clear_line():
    with pytest.raises(TrainingError, match=r"of 6 tried with 8 answers each, .* never solves 6, always 0") as caught:
        run(6, lambda i: 0)
    assert "\n" not in str(caught.value)


def test_the_result_survives_the_run_directory(tmp_path):
    run_directory = RunDirectory(tmp_path)
    found = run(10, lambda i: i)
    found.write(tmp_path, run_directory.write_json)
    assert from_json(run_directory.read_json(tmp_path / "prompts.json")) == found
    with pytest.raises(TrainingError, match="start the run anew"):
        from_json({"kept": []})
    assert isinstance(found, Filtered)
