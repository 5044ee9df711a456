"""What a run continues, and what its record holds."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError
from tests.support import peft, training
from trainer.dry_run import masked
from trainer.installation import open_registry
from trainer.plan import continued, environment, frozen


def test_the_record_names_files_not_places_and_no_secrets(tmp_path):
    file = training.run_file(tmp_path, "sft", text='[completions]\napi_key = "secret"\n')
    plan = training.plan("sft", file)
    record = frozen(plan)
    text = json.dumps(record, default=str)
    assert str(tmp_path) not in text and "secret" not in text
    assert record["config"]["data"]["train"] == ["sft.jsonl"]
    assert record["digests"]["base"] == plan.job.base.digest
    assert (record["seed"], record["world_size"], record["dtype"]) == (0, 1, "float32")
    assert environment()["packages"]["torch"]


def test_a_folder_is_continued_and_versions_are_checked(tmp_path, demo_base):
    folder = peft.write_adapter(tmp_path / "adapter", demo_base)
    file = training.run_file(tmp_path, "sft")
    file.write_text(f'init_from = "{folder}"\n' + file.read_text())
    plan = training.plan("sft", file)
    with open_registry(plan.job.installation) as registry:
        assert continued(plan.job.config, registry, plan.job.installation, plan.bases) == folder
        version = registry.push(folder, "support", base=demo_base, max_rank=16).name
        config = plan.job.config.model_copy(update={"init_from": version})
        found = continued(config, registry, plan.job.installation, plan.bases)
        assert (found / "adapter_model.safetensors").exists()
        other = peft.small_base(tmp_path / "other")
        strange = registry.push(peft.write_adapter(tmp_path / "b", other), "support", base=other, max_rank=16).name
        config = plan.job.config.model_copy(update={"init_from": strange})
        with pytest.raises(ConfigError, match="the adapter fits its own base only"):
            continued(config, registry, plan.job.installation, plan.bases)


def test_masked_text_marks_every_trained_stretch(tmp_path):
    rows = [{"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}]  # fmt: skip
    training.write_rows(tmp_path / "m.jsonl", rows)
    plan = training.plan("sft", training.run_file(tmp_path, "sft", "m", data='train = "m.jsonl"'))
    text = masked(plan.job.dataset.rows[0].sequences[0], plan.chat).plain
    assert text == "  <|bos|><|user|>a<|assistant|>⟦b<|eos|>⟧<|user|>c<|assistant|>⟦d<|eos|>⟧"
