import pytest

from adapters.errors import ConfigError
from tests.support import peft
from trainer.base_checks import check_lora, choose_dtype, context_length, difference, find_bases
from trainer.config import RunConfig
from trainer.installation import Installation


def config(**changes):
    return RunConfig.model_validate({"route": "r", "output_dir": "o", "data": {"train": "t"}, **changes})


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 32}, "r is 32, the engines take up to 16"),
        ({"use_dora": True}, "DoRA is not served"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"init_lora_weights": "olora"}, "changes the base's weights"),
        ({"init_lora_weights": "loftq"}, "changes the base's weights"),
        ({"modules_to_save": ["lm_head"]}, "whole modules are not part of a LoRA"),
        ({"bias": "all"}, "vLLM serves no adapter bias"),
        ({"lora_alpha": 1e9}, "it scales the adapter"),
    ],
)
def test_what_the_engines_cannot_serve_is_refused_before_training(lora, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_lora(config(lora=lora), "sft", 16)
    assert str(caught.value).startswith("[lora] ")


def test_what_they_serve_is_not():
    check_lora(config(lora={"r": 16, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"}), "sft", 16)
    check_lora(config(lora={"modules_to_save": ["score"]}), "reward-model", 16)
    with pytest.raises(ConfigError, match="whole modules"):
        check_lora(config(lora={"modules_to_save": ["score", "lm_head"]}), "reward-model", 16)
    with pytest.raises(ConfigError, match="exclude each other"):
        check_lora(config(lora={"r": 8}, init_from="support@3f2a9c1b7d20"), "grpo", 16)


def installed(tmp_path, base, **engine):
    return Installation.model_validate({"data_dir": tmp_path / "data", "engine": {"base_model": str(base), **engine}})


def test_another_base_than_the_one_that_serves_is_refused_or_recorded(tmp_path):
    serving, other = peft.write_base(tmp_path / "a"), peft.write_base(tmp_path / "b", rope_theta=5)
    installation = installed(tmp_path, serving)
    same = find_bases(config(base=str(serving)), installation)
    assert same.mismatch is None
    assert find_bases(config(), installation).trained.digest == same.serving.digest
    with pytest.raises(ConfigError, match="is not the checkpoint that the engines serve"):
        find_bases(config(base=str(other)), installation)
    found = find_bases(config(base=str(other), allow_base_mismatch=True), installation)
    assert found.mismatch is not None
    assert (found.mismatch["trained_on"], found.mismatch["serving"]) == (found.trained.digest, found.serving.digest)


@pytest.mark.parametrize(
    ("trained", "stored", "served", "message"),
    [
        ("", None, "", None),
        ("", "compressed-tensors", "", None),
        ("", "compressed-tensors", "compressed-tensors", None),
        ("nf4", None, "bitsandbytes", None),
        ("nf4", "bitsandbytes", "", None),
        ("nf4", None, "", "the engines serve the base as it is"),
        ("nf4", "compressed-tensors", "", "the engines serve the base as it is"),
        ("", None, "bitsandbytes", 'set quantization = "nf4"'),
        ("", "bitsandbytes", "", 'set quantization = "nf4"'),
        ("", None, "fp8", "the engines quantize the base with fp8"),
    ],
)
def test_the_arithmetic_of_training_is_that_of_serving(trained, stored, served, message):
    found = difference(config(quantization=trained), stored, served, same=True)
    assert found is None if message is None else message in str(found)


def test_the_context_is_what_is_served(tmp_path):
    base = peft.write_base(tmp_path / "a", max_position_embeddings=512)
    assert context_length(base, installed(tmp_path, base)) == 512
    assert context_length(base, installed(tmp_path, base, max_model_len=128)) == 128
    unknown = peft.write_base(tmp_path / "b")
    assert context_length(unknown, installed(tmp_path, unknown, max_model_len=64)) == 64
    with pytest.raises(ConfigError, match=r"set engine\.max_model_len"):
        context_length(unknown, installed(tmp_path, unknown))


def test_precision():
    assert choose_dtype(config(), gpu=True) == "bfloat16"
    assert choose_dtype(config(), gpu=False) == "float32"
    assert choose_dtype(config(dtype="float32"), gpu=True) == "float32"
