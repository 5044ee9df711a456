"""Real SFT runs on the demo base: effect, repeatability, what is written, and what is never sent."""

from __future__ import annotations

import json
import math

import pytest
import torch

from adapters.manifest import check_adapter
from adapters.probes import Probes
from tests.support import training
from tests.support.network import recorded
from trainer import sft
from trainer.chat import IGNORED
from trainer.demo import measure, world
from trainer.installation import open_registry
from trainer.model import load_base, load_tokenizer
from trainer.preferences import sums
from trainer.probes import load_adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as a user makes it: (plan, version, attempts to reach the network)."""
    folder = tmp_path_factory.mktemp("sft")
    file = training.run_file(folder, "sft", save_steps=10)
    with recorded() as attempts:
        plan, version = training.run("sft", file)
    return plan, version, attempts


@pytest.mark.slow
def test_it_beats_the_base_on_prompts_it_has_never_seen(trained, demo_answers):
    plan, _, _ = trained
    asked, base = demo_answers
    tuned = measure.sample(load_adapter("demo", plan.job.run.adapter), [e.prompt for e in asked])
    better = training.mcnemar(base, tuned, asked)
    print(better)
    assert better.gained > better.lost
    assert better.p < 1e-6


@pytest.mark.slow
def test_nothing_is_sent_anywhere(trained):
    assert trained[2] == []


@pytest.mark.slow
def test_only_canonical_files_probes_and_the_manifest_are_published(trained, demo_base):
    plan, version, _ = trained
    folder = plan.job.run.adapter
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "manifest.json", "probes.json",
    ]  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert list(config) == sorted(config)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == "demo"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {"algorithm": "sft", "base_digest": demo_base.digest, "dtype": "float32", "seed": 0}
    assert check_adapter(folder, demo_base, max_rank=16).digest.startswith(version.partition("@")[2])
    assert len(Probes.read(folder).prefixes) >= 4


@pytest.mark.slow
def test_the_registry_knows_where_it_comes_from(trained, demo_base):
    plan, version, _ = trained
    with open_registry(plan.job.installation) as registry:
        found = registry.get(version)
    assert found.lineage["run"] == "sft"
    assert found.lineage["data"] == plan.job.dataset.digests
    assert (found.lineage["algorithm"], found.lineage["seed"], found.lineage["step"]) == ("sft", 0, 25)
    assert (found.lineage["base_digest"], found.lineage["parent"], found.lineage["marks"]) == (demo_base.digest, None, {})
    assert found.base_digest == demo_base.digest
    assert found.manifest["probes"]["prefixes"]


@pytest.mark.slow
def test_the_run_directory_tells_the_whole_story(trained):
    plan, version, _ = trained
    run = plan.job.run
    losses = [row["loss"] for row in run.rows() if "loss" in row]
    assert [row["step"] for row in run.rows() if "loss" in row] == list(range(1, 26))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    frozen = run.read_json(run.frozen)
    assert frozen["digests"]["data"] == plan.job.dataset.digests
    assert len(frozen["environment"]["code"]) == 64
    assert frozen["environment"]["packages"]["trl"].startswith("1.16.")
    assert run.read_json(run.result)["version"] == version
    assert run.read_json(run.data_report)["kept"] == len(plan.job.rows)
    assert "<svg" in run.report.read_text() or "<img" in run.report.read_text()
    assert not list(run.path.rglob("*.bin")) or all("checkpoints" in str(p) for p in run.path.rglob("*.bin"))


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(trained):
    plan, version, _ = trained
    before = plan.job.run.metrics.read_bytes()
    assert training.run("sft", plan.job.folder / "sft.toml", resume=True)[1] == version
    assert plan.job.run.metrics.read_bytes() == before


@pytest.mark.slow
def test_a_run_killed_between_training_and_publishing_goes_on(trained):
    plan, version, _ = trained
    plan.job.run.result.unlink()
    assert training.run("sft", plan.job.folder / "sft.toml", resume=True)[1] == version


@pytest.mark.slow
def test_the_first_loss_is_the_mean_over_trained_tokens_by_hand(trained):
    """TRL's loss at step 1, of the base, against -Σ log p / n over the labels of its own first batch."""
    plan, _, _ = trained
    trainer = sft.make_trainer(plan.job, load_tokenizer("demo"))
    batch = next(iter(trainer.get_train_dataloader()))
    labels, ids = batch["labels"], batch["input_ids"]
    text = load_tokenizer("demo").decode([int(i) for i in ids[0][labels[0] != IGNORED]])
    assert text.endswith("<|eos|>") and "<|user|>" not in text
    with torch.no_grad():
        logits = load_base("demo")(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
    logprobs = logits.log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    scored = labels[:, 1:] != IGNORED
    by_hand = -float(logprobs[scored].sum() / scored.sum())
    assert math.isclose(plan.job.run.rows()[0]["loss"], by_hand, rel_tol=1e-4)


@pytest.mark.slow
def test_sums_of_logprobs_agree_with_one_by_one(trained):
    rows = trained[0].job.dataset.rows[:5]
    model = load_base("demo")
    flat = [row.sequences[0] for row in rows]
    together = sums(model, flat, batch=5)
    assert together == pytest.approx([sums(model, [one], 1)[0] for one in flat], abs=1e-4)


@pytest.mark.slow
@pytest.mark.long
def test_the_same_seed_gives_the_same_digest_and_another_seed_another(tmp_path):
    def version(name, seed):
        return training.run("sft", training.run_file(tmp_path / name, "sft", max_steps=3, seed=seed))[1]

    one = version("one", 5)
    assert version("two", 5) == one
    assert version("three", 6) != one


@pytest.mark.slow
def test_packed_rows_keep_their_masks_and_messages_rows_train_too(tmp_path):
    examples = world.examples(64, 3)
    training.write_rows(tmp_path / "m.jsonl", [{"messages": [
        {"role": "user", "content": e.prompt}, {"role": "assistant", "content": e.answer}]} for e in examples])
    file = training.run_file(
        tmp_path, "sft", "m", data='train = "m.jsonl"', packing=True, packing_strategy="wrapped", max_length=64, max_steps=2
    )
    plan = training.plan("sft", file)
    trainer = sft.make_trainer(plan.job, load_tokenizer("demo"))
    packed = trainer.train_dataset
    assert len(packed) < len(plan.job.rows) / 2
    trained = sum(label != IGNORED for row in packed for label in row["labels"])
    assert trained == sum(s.trained for row in plan.job.dataset.rows for s in row.sequences)
    assert all(label in (IGNORED, i) for row in packed for label, i in zip(row["labels"], row["input_ids"], strict=True))
    assert training.run("sft", file)[1].startswith("support@")
