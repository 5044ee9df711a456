"""The graders of a run: built from the file, checked before the run, found in the registry."""

import pytest

from adapters.errors import NotFound, TrainingError
from tests.support import peft, rl
from trainer.graders import build_rewards, stored_version
from trainer.installation import Installation, open_registry


def test_gold_is_apart_from_what_is_trained_on(tmp_path, capfd):
    rewards = build_rewards(rl.make_job("grpo", tmp_path, reward=[rl.HELPFUL, rl.EXACT | {"gold": True}]))
    assert list(rewards.reward.weights) == ["trainer.demo.gameable:helpfulness"]
    assert list(rewards.gold.weights) == ["exact"]
    assert rewards.prints()["reward"] != rewards.prints()["gold"]
    assert capfd.readouterr().err == ""


def test_a_reward_without_a_dominant_term_is_warned_about(tmp_path, capfd):
    rewards = build_rewards(rl.make_job("grpo", tmp_path, reward=[rl.HELPFUL, rl.EXACT]))
    assert rewards.gold is None
    assert "let one term, usually correctness, hold more than half" in capfd.readouterr().err


def test_a_gold_column_that_is_missing_is_named_before_the_run(tmp_path):
    missing = {"name": "exact", "gold": True, "options": {"column": "answr"}}
    with pytest.raises(TrainingError, match=r"gold cannot score the first rows of data\.eval: .* answer, task\)"):
        build_rewards(rl.make_job("grpo", tmp_path, reward=[rl.EXACT | {"label": "a"}, missing]))


def test_a_registered_version_s_files_are_found(tmp_path):
    installation = Installation(data_dir=tmp_path / "data")
    base = peft.small_base(tmp_path / "base")
    with open_registry(installation) as registry:
        pushed = registry.push(peft.write_adapter(tmp_path / "a", base), "support", base=base, max_rank=16)
    found = stored_version(installation)(pushed.name)
    assert (found.folder / "adapter_config.json").is_file()
    assert found.kind == "adapter"
    with pytest.raises(NotFound, match="does not exist"):
        stored_version(installation)("support@000000000000")
