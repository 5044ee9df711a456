"""DPO on the demo base: effect, its loss by hand, and over-optimisation that the health monitor finds."""

from __future__ import annotations

import pytest
import torch

from tests.support import training
from trainer import dpo
from trainer.demo import measure
from trainer.installation import open_registry
from trainer.model import load_tokenizer
from trainer.policy import load_policy
from trainer.preferences import pair_accuracy, sums
from trainer.probes import load_adapter

GOLD = '[[reward]]\nname = "exact"\ngold = true\n[health]\nevery = 5\nsamples = 1\n'


@pytest.mark.slow
def test_it_beats_the_base_on_prompts_it_has_never_seen(tmp_path, demo_answers):
    plan, _ = training.run("dpo", training.run_file(tmp_path, "dpo"))
    asked, base = demo_answers
    tuned = measure.sample(load_adapter("demo", plan.job.run.adapter), [e.prompt for e in asked])
    better = training.mcnemar(base, tuned, asked)
    print(better)
    assert better.gained > better.lost
    assert better.p < 1e-3


@pytest.mark.slow
def test_the_loss_is_the_papers_and_trls(tmp_path):
    """-log sigmoid(β((log π/π_ref)(chosen) - (log π/π_ref)(rejected))), Rafailov et al. 2023, eq. 7, on a moved model."""
    job = training.plan("dpo", training.run_file(tmp_path, "dpo", per_device_train_batch_size=8, beta=0.3)).job
    trainer = dpo.make_trainer(job, load_tokenizer("demo"))
    torch.manual_seed(1)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.02)
    rows = job.dataset.rows[:8]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    trainer.model.eval()
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, batch))
    flat = [sequence for row in rows for sequence in row.sequences]
    now = torch.tensor(sums(trainer.model, flat, 16))
    with trainer.model.disable_adapter():
        gained = now - torch.tensor(sums(trainer.model, flat, 16))
    margins = 0.3 * (gained[::2] - gained[1::2])
    assert margins.abs().max() > 0.01
    assert theirs == pytest.approx(float(torch.nn.functional.softplus(-margins).mean()), rel=1e-4)
    accuracy = pair_accuracy(rows, None)(trainer.model)
    assert accuracy == [1.0 if margin > 0 else 0.0 for margin in margins]


@pytest.mark.slow
def test_without_training_no_pair_is_told_apart(tmp_path):
    job = training.plan("dpo", training.run_file(tmp_path, "dpo")).job
    from peft import get_peft_model

    model = get_peft_model(*load_policy(job))
    assert pair_accuracy(job.dataset.rows[:6], None)(model) == [0.5] * 6


@pytest.mark.slow
@pytest.mark.long
def test_over_optimisation_is_found_stopped_and_the_best_weights_are_published(tmp_path):
    """At this rate the pairs are told apart ever better while exact match falls below the base's."""
    training.write_rows(tmp_path / "train.jsonl", training.rows_for("dpo"))
    training.write_rows(tmp_path / "eval.jsonl", training.rows_for("dpo", 64, 7, "held_out"))
    data = 'train = "train.jsonl"\neval = "eval.jsonl"'
    file = training.run_file(
        tmp_path, "dpo", "over", data=data, text=GOLD, learning_rate=2e-3, max_steps=40, eval_strategy="no"
    )
    plan, version = training.run("dpo", file)
    run = plan.job.run
    result = run.read_json(run.result)
    print(result)
    looks = [row for row in run.rows() if row["split"] == "health"]
    golds, proxies = ([row[f"health.{name}"] for row in looks] for name in ("gold", "reward"))
    assert proxies[-1] > 0.9 > proxies[0]
    assert golds[-1] < max(golds) - 0.2
    assert "run_collapsed" in result["marks"]
    assert result["step"] < looks[-1]["step"]
    with open_registry(plan.job.installation) as registry:
        assert registry.get(version).lineage["run_collapsed"]["reason"]
