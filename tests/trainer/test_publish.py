"""What is written for the registry, also when training saved rubbish."""

from __future__ import annotations

import json

import pytest

from adapters.errors import AdapterRejected, TrainingError
from tests.support import peft, training
from trainer.base_checks import Bases
from trainer.installation import open_registry
from trainer.job import Outcome
from trainer.publish import canonicalise, lineage, manifest_of, publish, write_adapter


@pytest.fixture
def plan(tmp_path):
    made = training.plan("sft", training.run_file(tmp_path, "sft"))
    made.job.run.path.mkdir(parents=True)
    return made


@pytest.fixture
def saved(tmp_path, demo_base):
    """As PEFT saves: with files that are nobody's business."""
    folder = peft.write_adapter(tmp_path / "saved", demo_base)
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "ref").mkdir()
    return folder


@pytest.mark.slow
def test_a_version_is_registered_with_its_marks_and_without_stray_files(plan, saved):
    outcome = Outcome(saved, 7, {"collapsed": True, "reason": "gold fell"}, {"gold": 0.5})
    with open_registry(plan.job.installation) as registry:
        made = publish(plan.job, outcome, registry, plan.bases, actor="me@here")
        again = publish(plan.job, outcome, registry, plan.bases, actor="me@here")
    assert again.name == made.name
    assert made.lineage["collapsed"] is True
    assert made.lineage["marks"] == {"collapsed": True, "reason": "gold fell"}
    assert (made.lineage["facts"], made.lineage["step"], made.lineage["pushed_by"]) == ({"gold": 0.5}, 7, "me@here")
    names = sorted(path.name for path in plan.job.run.adapter.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "probes.json"]
    assert not (plan.job.run.path / ".adapter").exists()


def test_a_mismatch_is_recorded_instead_of_the_digest(plan, saved):
    bases = Bases(plan.bases.trained, plan.bases.serving, {"trained_on": "a", "serving": "b", "reason": "because"})
    manifest = manifest_of(plan.job, Outcome(saved, 1), bases)
    assert "base_digest" not in manifest
    assert manifest["base_mismatch"]["reason"] == "because"
    assert manifest_of(plan.job, Outcome(saved, 1), plan.bases)["base_digest"] == plan.job.base.digest


def test_lineage_is_repeatable(plan, saved):
    assert lineage(plan.job, Outcome(saved, 1)) == lineage(plan.job, Outcome(saved, 1))


def test_training_that_saved_nothing_is_one_line(plan, tmp_path):
    with pytest.raises(TrainingError, match="training saved nothing"):
        write_adapter(plan.job, Outcome(tmp_path, 1), plan.bases)


@pytest.mark.slow
def test_what_the_engines_cannot_serve_is_refused(plan, saved):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 1e9}))
    with open_registry(plan.job.installation) as registry, pytest.raises((AdapterRejected, TrainingError)):
        publish(plan.job, Outcome(saved, 1), registry, plan.bases, actor="")


def test_lists_and_keys_of_a_config_are_sorted(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text('{"r": 8, "target_modules": ["v", "k"], "modules_to_save": null, "base_model_name_or_path": "/a"}')
    canonicalise(path, "demo")
    assert list(json.loads(path.read_text()).items()) == [
        ("base_model_name_or_path", "demo"), ("modules_to_save", None), ("r", 8), ("target_modules", ["k", "v"]),
    ]  # fmt: skip


def test_a_reward_models_config_names_its_head_only(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text('{"task_type": "SEQ_CLS", "modules_to_save": ["score", "classifier", "score"]}')
    canonicalise(path, "demo")
    assert json.loads(path.read_text())["modules_to_save"] == ["score"]
