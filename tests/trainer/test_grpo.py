"""GRPO on the demo base: real effect, the hacked reward, and bad input. RLOO is in test_rloo.py, resuming in
test_rl_resume.py, completions from a real vLLM in test_rl_engine.py."""

import json
import shutil
import socket

import pytest

from adapters.errors import ConfigError, EngineUnavailable, GraderError, TrainingError
from tests.support import rl
from trainer import grpo
from trainer.demo import world
from trainer.options import arguments

HEALTH = {
    "health.reward", "health.reward_std", "health.gold", "health.kl", "health.entropy", "health.completion_tokens",
    "health.duplicate_4gram", "health.distinct_4", "health.alignment_tax", "health.reward_gap",
}  # fmt: skip


@pytest.fixture(scope="module")
def base_right():
    return rl.right(rl.replies(None))


@pytest.fixture(scope="module")
def grpo_run(tmp_path_factory):
    """A run with everything on: (job, outcome)."""
    job = rl.make_job(
        "grpo", tmp_path_factory.mktemp("grpo"), rows=world.rows(100, 5), prompt_filter={"samples": 8, "limit": 60}
    )
    return job, rl.train(job)


@pytest.mark.slow
def test_grpo_beats_the_base(grpo_run, base_right):
    ours = rl.right(rl.replies(grpo_run[1].adapter))
    print("GRPO", sum(ours) / len(ours), "base", sum(base_right) / len(base_right))
    assert rl.better(ours, base_right) < 1e-4


@pytest.mark.slow
def test_a_run_leaves_its_numbers(grpo_run):
    job, outcome = grpo_run
    rows = job.run.rows()
    looks = [row for row in rows if row["split"] == "health"]
    assert [row["step"] for row in looks] == [0, 10, 20]
    assert all(row.keys() >= HEALTH for row in looks)
    assert looks[0]["health.kl"] == pytest.approx(0, abs=1e-5)
    assert looks[-1]["health.kl"] > 0.001
    steps = [row for row in rows if row["split"] == "train" and "reward" in row]
    assert [row["step"] for row in steps] == list(range(1, 21))
    assert all(0 <= row["health.zero_variance_ratio"] <= 1 and row["health.missing_ratio"] == 0 for row in steps)
    assert all(row["entropy"] > 0 and row["kl"] >= 0 for row in steps)
    assert any("held_out/gold" in row for row in rows)  # what report_to gets
    exported = (job.run.path / "metrics.prom").read_text()
    for name in ("reward", "gold", "kl", "entropy", "completion_tokens", "zero_variance_ratio"):
        assert f'understudy_training_{name}{{algorithm="grpo",run="run"}}' in exported
    assert {row["step"] for row in job.run.rows(job.run.samples)} == {0, 10, 20}
    found = json.loads((job.run.path / "prompts.json").read_text())
    assert (found["rows"], len(found["tried"])) == (100, 60)
    assert 40 < len(found["kept"]) == outcome.facts["prompts"]


@pytest.mark.slow
def test_the_best_checkpoint_by_gold_is_the_one_to_publish(grpo_run):
    job, outcome = grpo_run
    golds = {row["step"]: row["health.gold"] for row in job.run.rows() if row["split"] == "health" and row["step"]}
    assert golds[outcome.step] == max(golds.values())
    assert outcome.adapter == job.run.path / "best" / f"step-{outcome.step}"
    names = {path.name for path in outcome.adapter.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert "ref" not in names
    assert "training_args.bin" not in names
    assert outcome.marks == {}
    assert outcome.facts["gold_published"] == pytest.approx(golds[outcome.step])
    assert set(outcome.facts["graders"]) == {"reward", "gold"}


def wrong_sft(folder):
    """An adapter from demonstrations of which 30 % are wrong."""
    import random

    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from trainer.model import load_base, load_tokenizer
    from trainer.session import training_session

    chance = random.Random(1)
    rows = []
    for example in world.examples(600, 41):
        wrong = "".join(chance.choice("abcdefgh0123456789") for _ in range(4))
        said = wrong if chance.random() < 0.3 else example.answer
        rows.append({"prompt": example.row()["prompt"], "completion": [{"role": "assistant", "content": said}]})
    with training_session(1):
        options = SFTConfig(
            output_dir=str(folder / "trl"), max_steps=30, per_device_train_batch_size=32, learning_rate=1e-3,
            max_length=64, seed=0, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
            report_to=[], disable_tqdm=True,
        )  # fmt: skip
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=load_base("demo"), args=options, train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer("demo"), peft_config=lora,
        )  # fmt: skip
        trainer.train()
        trainer.model.save_pretrained(str(folder / "sft"))
    return folder / "sft"


@pytest.mark.slow
@pytest.mark.long
def test_grpo_repairs_what_wrong_demonstrations_taught(tmp_path, base_right):
    start = wrong_sft(tmp_path)
    # beta = 0: TRL makes no reference then, but KL is measured to the adapter that is continued all the same.
    job = rl.make_job("grpo", tmp_path / "run", init_from=start, trainer={"beta": 0.0, "max_steps": 16})
    outcome = rl.train(job)
    ours, theirs = rl.right(rl.replies(outcome.adapter)), rl.right(rl.replies(start))
    print("GRPO", sum(ours) / len(ours), "SFT", sum(theirs) / len(theirs))
    assert rl.better(ours, theirs) < 0.01
    assert rl.better(ours, base_right) < 1e-4
    kls = [row["health.kl"] for row in job.run.rows() if row["split"] == "health"]
    assert kls[0] == pytest.approx(0, abs=1e-5)  # to the base it would be far from 0
    assert kls[-1] > 0.001
    for folder in (outcome.adapter, *job.run.checkpoints.glob("checkpoint-*")):
        assert not (folder / "ref").exists()


HACK = {
    "reward": [rl.HELPFUL, rl.EXACT | {"gold": True}],
    "trainer": {"learning_rate": 2e-3, "beta": 0.0, "max_completion_length": 24, "max_steps": 24, "save_steps": 5},
}


@pytest.mark.slow
@pytest.mark.long
def test_a_hacked_reward_is_marked_collapsed(tmp_path):
    job = rl.make_job(
        "grpo", tmp_path, **HACK, health={"every": 5, "on_collapse": "mark", "publish": "last"}
    )
    outcome = rl.train(job)
    assert 15 < outcome.step <= 24  # it may end early: once every answer is gamed there is nothing left to learn
    assert outcome.marks["collapsed"] is True
    assert "while the reward 0." in outcome.marks["reason"]
    first, last = (row for row in job.run.rows() if row["split"] == "health" and row["step"] in (0, outcome.step))
    print({name: (first[name], last[name]) for name in sorted(HEALTH)}, outcome.marks)
    assert last["health.reward"] > 0.8 > 0.3 > first["health.reward"]
    assert first["health.gold"] > 0.3 > 0.1 > last["health.gold"]
    assert last["health.alignment_tax"] > 2
    assert last["health.completion_tokens"] > 2 * first["health.completion_tokens"]
    assert last["health.duplicate_4gram"] > 0.2
    assert last["health.entropy"] < first["health.entropy"] / 2


@pytest.mark.slow
def test_a_collapsed_run_stops_and_publishes_nothing_worse_than_its_start(tmp_path):
    job = rl.make_job("grpo", tmp_path, **HACK, health={"every": 5})
    with pytest.raises(TrainingError, match=r"the run collapsed: gold 0\.\d+ → .* none is published") as caught:
        rl.train(job)
    assert "\n" not in str(caught.value)
    stopped = max(row["step"] for row in job.run.rows())
    assert stopped < 20
    # Resumed from the very checkpoint it stopped at, it does not take another step.
    resumed = rl.make_job("grpo", tmp_path, resume=True, **HACK, health={"every": 5, "publish": "last"})
    outcome = rl.train(resumed)
    assert outcome.step == stopped == int(resumed.resume_from.name.rpartition("-")[2])
    assert outcome.marks["collapsed"] is True
    weights = [folder / "adapter_model.safetensors" for folder in (outcome.adapter, resumed.resume_from)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def refused(error, match, folder, **changes):
    """The run is refused in one line, before a model is loaded."""
    with pytest.raises(error, match=match) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "load_policy", lambda job: pytest.fail("the model was loaded first"))
        rl.train(rl.make_job("grpo", folder, **changes))
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_before_long_work(tmp_path):
    long = [{"prompt": [{"role": "user", "content": "a" * 250}], "answer": "a"}]
    folders = iter(tmp_path / str(i) for i in range(20))
    refused(ConfigError, r"reward 'exakt' does not exist: there are exact", next(folders), reward=[{"name": "exakt"}])
    refused(TrainingError, r"data\.train, row 1001: a prompt of 253 tokens .* served context of 256", next(folders),
            rows=world.rows(1000, 1) + long)  # fmt: skip
    refused(TrainingError, r"reward cannot score the first rows of data\.train: .* \(columns there: task\)",
            next(folders), rows=[{k: v for k, v in row.items() if k != "answer"} for row in world.rows(99, 1)])  # fmt: skip
    refused(ConfigError, r"trainer\.save_steps is 3: it must be a multiple of 2", next(folders),
            trainer={"save_steps": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 1})  # fmt: skip
    refused(ConfigError, r"trainer\.num_generation: .* nearest: num_generations", next(folders),
            trainer={"num_generation": 8})  # fmt: skip
    refused(TrainingError, r"5 prompts are left to train on, and one batch takes 8", next(folders), rows=world.rows(5, 1))
    refused(TrainingError, r"held-out prompts are too few", next(folders), rows=world.rows(50, 1), held_out=0)
    judge = {"name": "judge", "options": {"url": "http://127.0.0.1:9", "model": "m", "rubric": "good?"}}
    refused((ConfigError, GraderError), r"judge", next(folders), reward=[judge])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(ConfigError, f"metrics_port {port} cannot be opened", next(folders), health={"metrics_port": port})
    away = {"source": "vllm", "url": "http://127.0.0.1:9"}
    refused(EngineUnavailable, r"the engine at http://127\.0\.0\.1:9 cannot be reached", next(folders), completions=away)


def test_no_prompt_left_after_the_filter_is_one_line(tmp_path):
    rows = [row | {"answer": "never"} for row in world.rows(40, 1)]
    job = rl.make_job("grpo", tmp_path, rows=rows, prompt_filter={"samples": 4})
    with pytest.raises(TrainingError, match=r"no prompt is left to train on: of 40 tried .* never solves 40, always 0"):
        rl.train(job)


def test_the_filter_is_decided_once(tmp_path):
    job = rl.make_job("grpo", tmp_path, prompt_filter={"enabled": True})
    shutil.rmtree(job.run.checkpoints)
    (job.run.path / "prompts.json").write_text(
        json.dumps({"rows": 9, "tried": [1, 2], "kept": [2], "pass_rates": [0.0, 0.5], "unsolved": 1, "solved": 0, "missing": 0})
    )
    import dataclasses

    resumed = dataclasses.replace(job, resume_from=tmp_path)
    rows = job.rows[:9]
    assert grpo.filtered(resumed, rows, None, model=None, tokenizer=None, options=None) == [rows[2]]


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, 20 * 8),
        ({"max_steps": -1}, None),
        ({"num_iterations": 4}, 5 * 8),
        ({"gradient_accumulation_steps": 2}, 20 * 16),  # two batches are generated together
        ({"steps_per_generation": 3, "num_generations": 4}, 7 * 48),
    ],
)
def test_prompts_that_a_run_will_use(tmp_path, options, needed):
    assert grpo.prompts_needed(arguments(rl.make_job("grpo", tmp_path, trainer=options))) == needed


@pytest.mark.parametrize(
    ("options", "cycle"),
    [({}, 1), ({"num_iterations": 3}, 3), ({"steps_per_generation": 4, "gradient_accumulation_steps": 2}, 2)],
)
def test_checkpoints_lie_between_generations(tmp_path, options, cycle):
    job = rl.make_job("grpo", tmp_path, trainer={"save_steps": cycle, **options})
    grpo.check_options(arguments(job))
    if cycle > 1:
        job = rl.make_job("grpo", tmp_path / "b", trainer={"save_steps": cycle + 1, **options})
        with pytest.raises(ConfigError, match=f"must be a multiple of {cycle}"):
            grpo.check_options(arguments(job))
