import re

import pytest

from adapters.errors import ConfigError
from trainer.config import load_run_config

PLAIN = 'route = "support"\noutput_dir = "runs/a"\n[data]\ntrain = "rows.jsonl"\n'
REWARD = '[[reward]]\nname = "exact"\n'


def load(tmp_path, text, algorithm="sft"):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_run_config(path, algorithm)


def test_paths_are_relative_to_the_file_and_one_file_is_a_list(tmp_path):
    config = load(tmp_path, PLAIN.replace("runs/a", "../a") + 'eval = ["e1.jsonl", "/e2.jsonl"]\n')
    assert config.data.train == (tmp_path / "rows.jsonl",)
    assert [str(path) for path in config.data.eval] == [f"{tmp_path}/e1.jsonl", "/e2.jsonl"]
    assert config.output_dir == tmp_path / "../a"
    assert config.seed == 42
    assert (config.lora.r, config.lora.lora_alpha, config.lora.target_modules) == (16, 32, "all-linear")


@pytest.mark.parametrize(
    ("text", "algorithm", "message"),
    [
        (PLAIN.replace("route", "rout"), "sft", "rout"),
        (PLAIN + "[lora]\nrank = 4\n", "sft", "unknown key 'lora.rank'; the nearest known one is 'r'"),
        (PLAIN.replace("support", "Support!"), "sft", "route"),
        (PLAIN + "general_share = 0.2\n", "sft", "data.general and data.general_share belong together"),
        (PLAIN + 'general = "g"\ngeneral_share = 0.2\n', "dpo", "data.general is for sft"),
        (PLAIN + 'general = "g"\ngeneral_share = 1.0\n', "sft", "general_share"),
        (PLAIN, "grpo", "grpo needs a [[reward]] to train on"),
        (PLAIN + REWARD + "gold = true\n", "rloo", "rloo needs a [[reward]]"),
        (PLAIN + REWARD, "dpo", "dpo trains on no reward: mark [[reward]] 'exact' gold = true"),
        (PLAIN + REWARD + "gold = true\n", "reward-model", "leave [[reward]] out"),
        (PLAIN + '[completions]\nsource = "vllm"\n' + REWARD, "grpo", "needs completions.url"),
        (PLAIN.replace('train = "rows.jsonl"', "train = []"), "sft", "data.train"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, algorithm, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(tmp_path, text, algorithm)
    assert "\n" not in str(caught.value)


def test_the_environment_overrides_and_secrets_stay_out_of_dumps(tmp_path, monkeypatch):
    secret = tmp_path / "key"
    secret.write_text("abc\n")
    monkeypatch.setenv("UNDERSTUDY_LORA__R", "8")
    monkeypatch.setenv("UNDERSTUDY_COMPLETIONS__API_KEY_FILE", str(secret))
    config = load(tmp_path, PLAIN)
    assert config.lora.r == 8
    assert config.completions.api_key.get_secret_value() == "abc"
    assert "abc" not in str(config.model_dump(mode="json"))
