"""Completions from a real vLLM that serves the packed 4-bit base: the adapter is hot-loaded at every step."""

import pytest

from adapters.errors import TrainingError
from tests.support import rl

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def completions(engine_url, **more):
    return {"source": "vllm", "url": engine_url, **more}


@pytest.mark.long
def test_grpo_learns_from_the_engine_that_serves(real_engine, engine, tmp_path):
    loads = []

    def adapters():
        return [m["id"] for m in engine.http.get("/v1/models").json()["data"] if m.get("parent")]

    before = adapters()
    from trainer import engine_client as module

    original = module.Engine.load

    def load(self, name, folder):
        loads.append(name)
        return original(self, name, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Engine, "load", load)
        job = rl.make_job(
            "grpo", tmp_path, completions=completions(real_engine.url), trainer={"beta": 0.0, "max_steps": 14},
            held_out=40, health={"every": 7, "prompts": 32}, prompt_filter={"samples": 4, "limit": 100},
        )  # fmt: skip
        outcome = rl.train(job)
    steps = [row for row in job.run.rows() if "health.logprob_gap" in row]
    gaps = [row["health.logprob_gap"] for row in steps]
    print("gap", sum(gaps) / len(gaps), max(gaps), "reward", [row["reward"] for row in steps])
    assert len(steps) == 14
    assert max(gaps) < 0.05
    assert len(loads) == len(set(loads)) == 14  # one a step, never a name twice
    assert adapters() == before
    ours, base = rl.right(rl.replies(outcome.adapter)), rl.right(rl.replies(None))
    print("GRPO from vLLM", sum(ours) / len(ours), "base", sum(base) / len(base))
    assert rl.better(ours, base) < 0.01


def other_weights(folder):
    """An adapter of the shapes that the run has, and of other weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from trainer.model import load_base

    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_base("demo"), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(folder))
    return folder


def test_rloo_too_and_an_engine_with_other_weights_is_noticed(real_engine, engine, tmp_path):
    job = rl.make_job(
        "rloo", tmp_path / "a", completions=completions(real_engine.url), held_out=10,
        trainer={"max_steps": 2, "per_device_train_batch_size": 16}, health={"prompts": 8},
    )  # fmt: skip
    rl.train(job)
    assert all(row["health.logprob_gap"] < 0.05 for row in job.run.rows() if "reward" in row)
    strange = other_weights(tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        from trainer.rl_trainers import EngineCompletions

        def other(self, folder):
            import shutil

            shutil.copytree(strange, folder)

        patch.setattr(EngineCompletions, "_save", other)
        job = rl.make_job("grpo", tmp_path / "b", completions=completions(real_engine.url), held_out=10)
        with pytest.raises(TrainingError, match=r"nats a token from the trainer's before the first step"):
            rl.train(job)
    assert not [m for m in engine.http.get("/v1/models").json()["data"] if str(m["id"]).startswith("training-")]


def test_an_engine_without_the_files_is_one_clear_line(real_engine, tmp_path):
    job = rl.make_job(
        "grpo", tmp_path, completions=completions(real_engine.url, engine_dir="/nowhere"), held_out=10
    )
    with pytest.raises(TrainingError, match="does it see this folder") as caught:
        rl.train(job)
    assert "\n" not in str(caught.value)
