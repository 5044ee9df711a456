"""What the algorithms share: gold graders that watch, adapters that are continued, checkpoints without TRL's copy."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError
from tests.support import training
from trainer.installation import open_registry
from trainer.model import load_tokenizer
from trainer.policy import load_policy, lora_options
from trainer.training import gold_monitor, held_out_options

GOLD = '[[reward]]\nname = "exact"\ngold = true\n'


def test_without_gold_graders_nothing_watches_and_with_them_something_must_be_there_to_see(tmp_path):
    plain = training.plan("sft", training.run_file(tmp_path, "sft")).job
    assert gold_monitor(plain, load_tokenizer("demo")) is None
    watched = training.plan("sft", training.run_file(tmp_path, "sft", "gold", text=GOLD)).job
    with pytest.raises(ConfigError, match=r"give data\.eval"):
        gold_monitor(watched, load_tokenizer("demo"))


def test_held_out_rows_are_evaluated_unless_the_file_says_otherwise(tmp_path):
    training.write_rows(tmp_path / "t.jsonl", training.rows_for("dpo", 20))
    training.write_rows(tmp_path / "e.jsonl", training.rows_for("dpo", 10, 7, "held_out"))
    data = 'train = "t.jsonl"\neval = "e.jsonl"'
    job = training.plan("dpo", training.run_file(tmp_path, "dpo", "a", data=data)).job
    assert held_out_options(job) == {"eval_strategy": "steps", "eval_steps": 50}
    own = training.plan("dpo", training.run_file(tmp_path, "dpo", "b", data=data, eval_strategy="no")).job
    assert held_out_options(own) == {}


def test_peft_gets_what_the_file_says(tmp_path):
    text = '[lora]\nr = 4\nlora_alpha = 8\ntarget_modules = ["q_proj"]\n'
    job = training.plan("sft", training.run_file(tmp_path, "sft", text=text)).job
    assert lora_options(job.config.lora)["target_modules"] == ["q_proj"]
    model, lora = load_policy(job)
    assert (lora.r, lora.lora_alpha, lora.target_modules, lora.task_type) == (4, 8, {"q_proj"}, "CAUSAL_LM")
    assert model.dtype.is_floating_point


@pytest.mark.slow
@pytest.mark.long
def test_an_adapter_is_continued_and_is_the_reference_and_a_resumed_run_is_the_same(tmp_path):
    """SFT, then DPO from that version: TRL's reference copy must neither be published nor break the resume."""
    _, parent = training.run("sft", training.run_file(tmp_path, "sft", max_steps=5))
    file = training.run_file(tmp_path, "dpo", max_steps=4, save_steps=2)
    file.write_text(f'init_from = "{parent}"\n' + file.read_text())
    plan, version = training.run("dpo", file)
    run = plan.job.run
    assert version != parent
    assert abs(run.rows()[0]["loss"] - 0.6931) < 1e-3  # at the start policy and reference are the same
    assert not list(run.path.rglob("ref"))
    with open_registry(plan.job.installation) as registry:
        assert registry.get(version).lineage["parent"] == parent
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == 16
    run.result.unlink()
    (run.checkpoints / "checkpoint-4" / "optimizer.pt").unlink()  # torn
    assert training.run("dpo", file, resume=True)[1] == version
