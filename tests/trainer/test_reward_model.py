"""Reward models: effect on held-out pairs, Bradley-Terry by hand, calibration, and how they are registered."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from adapters.errors import Conflict, TrainingError
from adapters.routes import RouteStore
from adapters.types import Kind
from monitors.rewards.build import build_grader
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample
from tests.support import training
from trainer import reward_model
from trainer.demo import world
from trainer.installation import open_database_of, open_registry
from trainer.model import load_tokenizer


def test_bradley_terry_by_hand():
    """Margins 2, 0 and -1: losses log(1 + e^-2), log 2, log(1 + e)."""
    found = reward_model.measure(np.array([[3.0, 1.0], [1.0, 1.0], [0.0, 1.0]]))
    by_hand = (math.log(1 + math.exp(-2)) + math.log(2) + math.log(1 + math.e)) / 3
    assert found["loss"] == pytest.approx(by_hand)
    assert found["pair_accuracy"] == pytest.approx(0.5)  # right, tied, wrong
    assert found["margin"] == pytest.approx(1 / 3)
    assert found["pairs"] == 3


def test_wilson_intervals_agree_with_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    scores = np.array([[1.0, 0.0]] * 18 + [[0.0, 1.0]] * 2)
    found = reward_model.measure(scores)
    low, high = proportion_confint(18, 20, method="wilson")
    assert (found["pair_accuracy_low"], found["pair_accuracy_high"]) == (pytest.approx(low), pytest.approx(high))


def test_what_cannot_be_calibrated_is_refused():
    assert reward_model.calibrate(np.array([[1.0, 3.0]])) == (2.0, 1.0)
    with pytest.raises(TrainingError, match="the same score"):
        reward_model.calibrate(np.ones((5, 2)))
    with pytest.raises(TrainingError, match="non-finite"):
        reward_model.measure(np.array([[np.nan, 1.0]]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rm")
    return training.run("reward-model", training.run_file(folder, "reward-model", max_steps=25))


@pytest.mark.slow
def test_it_ranks_held_out_pairs_and_says_how_well(trained):
    plan, _ = trained
    facts = plan.job.run.read_json(plan.job.run.result)["facts"]
    print(facts)
    assert facts["pairs"] >= 50
    assert facts["pair_accuracy_low"] > 0.75
    assert facts["calibration_error"] < 0.2
    assert facts["loss"] < math.log(2)


@pytest.mark.slow
def test_it_is_registered_as_a_reward_model_and_cannot_serve_a_route(trained):
    plan, version = trained
    with open_registry(plan.job.installation) as registry:
        found = registry.get(version)
    assert found.kind is Kind.REWARD_MODEL
    assert found.manifest["reward_model"]["calibration"]["scale"] > 0
    assert found.manifest["reward_model"]["base"] == plan.job.base.digest
    with open_database_of(plan.job.installation) as database, pytest.raises(Conflict, match="cannot serve a route"):
        RouteStore(database).set_target("support", version)


@pytest.mark.slow
def test_graders_score_with_it(trained):
    """As `understudy reward` does: right answers to prompts that neither run nor calibration has seen score higher."""
    plan, _ = trained
    grader = build_grader(RewardSpec(name="reward_model", options={"path": str(plan.job.run.adapter)}))
    asked = world.examples(60, 99, "held_out")
    wrong = [row["rejected"] for row in training.rows_for("dpo", 60, 99, "held_out")]
    prompts = [({"role": "user", "content": e.prompt},) for e in asked]
    right_scores = grader.score([Sample(p, e.answer) for p, e in zip(prompts, asked, strict=True)])
    wrong_scores = grader.score([Sample(p, w) for p, w in zip(prompts, wrong, strict=True)])
    assert all(0 <= score <= 1 for score in [*right_scores, *wrong_scores])
    assert sum(r > w for r, w in zip(right_scores, wrong_scores, strict=True)) >= 45


@pytest.mark.slow
def test_the_loss_agrees_with_trls(trained):
    plan, _ = trained
    job = reward_model._with_held_out(plan.job)
    trainer = reward_model.make_trainer(job, load_tokenizer("demo"))
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
    ours = reward_model.measure(reward_model.raw_scores(trainer.model, job.dataset.rows[:8], 0))
    assert theirs == pytest.approx(ours["loss"], rel=1e-4)


def test_a_tenth_of_the_prompts_is_held_out_and_too_few_are_refused(tmp_path):
    job = training.plan("reward-model", training.run_file(tmp_path, "reward-model")).job
    split = reward_model._with_held_out(job).dataset
    assert 0.05 < len(split.held_out) / len(job.dataset.rows) < 0.16
    assert not {r.row.prompt_text() for r in split.rows} & {r.row.prompt_text() for r in split.held_out}
    training.write_rows(tmp_path / "few.jsonl", training.rows_for("reward-model", 20))
    few = training.plan("reward-model", training.run_file(tmp_path, "reward-model", "few", data='train = "few.jsonl"')).job
    with pytest.raises(TrainingError, match="at least 8 are needed"):
        reward_model._with_held_out(few)


@pytest.mark.slow
def test_the_description_is_what_graders_read(trained):
    plan, _ = trained
    described = json.loads((plan.job.run.adapter / "reward_model.json").read_text())
    assert set(described) == {"base", "calibration", "held_out"}
