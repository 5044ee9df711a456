"""The health monitor: what a look writes, what is published, and what a resumed run remembers."""

import json

import pytest

from adapters.errors import TrainingError
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
from trainer.demo import world
from trainer.health import STATE, HealthMonitor, Watched, text_signs
from trainer.health_rule import Look
from trainer.model import load_base, load_tokenizer
from trainer.reward_function import RewardFunction
from trainer.rl_settings import HealthSettings
from trainer.run_directory import RunDirectory
from trainer.sampling import Answer

ROWS = world.rows(12, 1, "held_out")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.fixture(scope="module")
def model():
    """The base with a fresh adapter: what every run begins with."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(load_base("demo"), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


@pytest.fixture
def monitor(tmp_path, tokenizer):
    def make(**settings):
        exact, helpful = (build_grader(RewardSpec(name=n)) for n in ("exact", "trainer.demo.gameable:helpfulness"))
        settings = HealthSettings(**settings)
        function = RewardFunction(helpful, settings, num_generations=2, rows=ROWS)
        watched = Watched(ROWS, helpful, exact, max_tokens=8)
        return HealthMonitor(watched, settings, RunDirectory(tmp_path), tokenizer, seed=3, function=function)

    return make


def seen(step, reward, gold):
    return Look(step, (reward,) * 12, (gold,) * 12)


def test_a_look_writes_numbers_and_samples_and_changes_nothing(monitor, model, tmp_path):
    import torch

    made = monitor(sample_rows=5)
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    made.look(model, 0)
    assert torch.rand(1) == expected
    (row,) = RunDirectory(tmp_path).rows()
    assert (row["step"], row["split"]) == (0, "health")
    assert row["health.kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < row["health.gold"] < 1
    assert row["health.alignment_tax"] == 0
    assert row["health.reward_gap"] == pytest.approx(row["health.reward"] - row["health.gold"])
    assert {"health.reward_std", "health.entropy", "health.completion_tokens", "health.duplicate_4gram",
            "health.distinct_4"} <= row.keys()  # fmt: skip
    samples = RunDirectory(tmp_path).rows(tmp_path / "samples.jsonl")
    assert len(samples) == 5
    assert samples[0]["prompt"] == ROWS[0]["prompt"][0]["content"]
    assert samples[0]["gold"] in (0.0, 1.0)
    made.look(model, 5)
    assert made.looks[0].reward == made.looks[1].reward  # the same weights, prompts and seed
    assert made.verdict.status == "ok"


def test_the_best_by_gold_is_published_and_the_start_is_no_candidate(monitor, tmp_path):
    made = monitor()
    made.looks = [seen(0, 0.1, 0.9), seen(5, 0.2, 0.5), seen(10, 0.3, 0.6), seen(15, 0.4, 0.5)]
    outcome = made.outcome(tmp_path / "last", 15)
    assert (outcome.adapter, outcome.step) == (tmp_path / "best" / "step-10", 10)
    assert outcome.facts["gold_start"] == pytest.approx(0.9)
    assert outcome.facts["gold_published"] == pytest.approx(0.6)
    assert outcome.marks == {}


def test_without_gold_the_last_is_published(monitor, tmp_path):
    made = monitor()
    made.looks = [seen(0, 0.1, None), seen(5, 0.2, None)]
    assert made.outcome(tmp_path / "last", 5).adapter == tmp_path / "last"


COLLAPSED = [seen(0, 0.1, 0.4), seen(5, 0.2, 0.6), seen(10, 0.9, 0.1)]
COLLAPSE = {"step": 10, "since": 5, "reason": "gold fell"}


def test_a_checkpoint_from_before_the_turn_is_not_marked(monitor, tmp_path):
    made = monitor()
    made.looks, made.collapse = list(COLLAPSED), dict(COLLAPSE)
    outcome = made.outcome(tmp_path / "last", 10)
    assert outcome.step == 5
    assert outcome.marks == {"run_collapsed": COLLAPSE}


def test_the_last_of_a_collapsed_run_is_published_on_request_and_marked(monitor, tmp_path):
    made = monitor(publish="last")
    made.looks, made.collapse = list(COLLAPSED), dict(COLLAPSE)
    outcome = made.outcome(tmp_path / "last", 10)
    assert (outcome.adapter, outcome.step) == (tmp_path / "last", 10)
    assert outcome.marks["collapsed"] is True
    assert outcome.marks["reason"] == "gold fell"


def test_a_collapsed_run_that_was_never_better_than_its_start_publishes_nothing(monitor, tmp_path):
    made = monitor()
    made.looks, made.collapse = [COLLAPSED[0], seen(5, 0.9, 0.1)], {"step": 5, "since": 0, "reason": "gold fell"}
    with pytest.raises(TrainingError, match=r"no checkpoint has more gold than the start \(0\.100, start 0\.400\)"):
        made.outcome(tmp_path / "last", 5)


def test_a_resumed_run_remembers_and_forgets_what_came_after(monitor, tmp_path):
    first = monitor()
    first.looks, first.collapse = list(COLLAPSED), dict(COLLAPSE)
    checkpoint = tmp_path / "checkpoint-10"
    checkpoint.mkdir()
    (checkpoint / STATE).write_text(json.dumps(first.state()))
    for step in (5, 15):
        first.best_folder(step).mkdir(parents=True)
    second = monitor()
    second.restore(checkpoint)
    assert second.looks == COLLAPSED
    assert second.state() == first.state()
    assert second.best_folder(5).exists()
    assert not second.best_folder(15).exists()
    (checkpoint / STATE).write_text("{")
    with pytest.raises(TrainingError, match=r"health\.json cannot be read"):
        second.restore(checkpoint)


def test_a_proxy_may_be_a_function_of_the_model(tmp_path, tokenizer, model):
    exact = build_grader(RewardSpec(name="exact"))
    watched = Watched(ROWS, lambda model: [1.0] * len(ROWS), exact, max_tokens=4)
    made = HealthMonitor(watched, HealthSettings(samples=1), RunDirectory(tmp_path), tokenizer, seed=1)
    made.look(model, 0)
    assert made.looks[0].reward == (1.0,) * len(ROWS)
    assert made.state()["function"] is None


def test_signs_of_texts():
    answers = [Answer((1,), (1, 2, 3, 4), ""), Answer((1,), (7,) * 8, "")]
    assert text_signs(answers) == {
        "completion_tokens": 6, "duplicate_4gram": (0 + 0.8) / 2, "distinct_4": pytest.approx(2 / 6)
    }  # fmt: skip
