"""adapter_config.json: what is served, what is refused with which advice, and that nothing crashes the check."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from adapters.adapter_config import check_config
from adapters.errors import AdapterRejected
from tests.support import peft

TARGETS = ("q_proj", "v_proj")


def config(**changes):
    return peft.lora_config(TARGETS, 4, **changes)


def test_a_plain_lora_is_served():
    checked = check_config(config(), 16)
    assert (checked.r, checked.targets, checked.partial) == (4, TARGETS, False)


def test_what_peft_saves_by_default_is_served(tmp_path):
    LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert check_config(saved, 8).r == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": False},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}}, {"target_modules": ".*_proj"},
        {"layers_to_transform": [0, 1]}, {"exclude_modules": ["k_proj"]}, {"lora_alpha": 0.5},
        {"some_key_of_a_later_peft": None}, {"another": False}, {"loftq_config": {"loftq_bits": 4}},
    ],
)  # fmt: skip
def test_variations_that_vllm_serves(changes):
    check_config(config(**changes), 16)


REFUSED = {
    "IA3": ({"peft_type": "IA3"}, "only LORA adapters"),
    "no type": ({"peft_type": None}, "only LORA adapters"),
    "DoRA": ({"use_dora": True}, "train with use_dora=False"),
    "bias": ({"bias": "all"}, "train with bias='none'"),
    "LoRA bias": ({"lora_bias": True}, "train with lora_bias=False"),
    "modules to save": ({"modules_to_save": ["lm_head"]}, "train with modules_to_save=None"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "changes the base's weights"),
    "PiSSA with iterations": ({"init_lora_weights": "pissa_niter_16"}, "changes the base's weights"),
    "OLoRA": ({"init_lora_weights": "olora"}, "changes the base's weights"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "changes the base's weights"),
    "aLoRA": ({"alora_invocation_tokens": [1]}, "Activated LoRA"),
    "fused experts": ({"target_parameters": ["experts.w"]}, "target linear modules"),
    "layer replication": ({"layer_replication": [[0, 2]]}, "other layers"),
    "new tokens": ({"trainable_token_indices": [3]}, "token embeddings"),
    "unknown feature": ({"use_newlora": True}, "'use_newlora' is True: not known to be served"),
    "engine's own key": ({"vllm_lora_scaling_factor": 9.0}, "not known to be served"),
    "rank": ({"r": 32}, r"r is 32, the engines take up to 16: .*raise engine\.max_lora_rank"),
    "rank in a pattern": ({"rank_pattern": {"q_proj": 64}}, r"rank_pattern\['q_proj'\] is 64"),
    "rank 0": ({"r": 0}, "a whole number from 1 to 16"),
    "rank true": ({"r": True}, "a whole number"),
    "rank text": ({"r": "8"}, "a whole number"),
    "rank missing": ({"r": None}, "a whole number"),
    "alpha 0": ({"lora_alpha": 0}, "a positive number"),
    "alpha negative": ({"lora_alpha": -8}, "a positive number"),
    "alpha text": ({"lora_alpha": "16"}, "a positive number"),
    "alpha enormous": ({"lora_alpha": 1e9}, "scales the adapter by 250000000"),
    "alpha in a pattern": ({"alpha_pattern": {"q_proj": -1}}, r"alpha_pattern|q_proj is -1"),
    "pattern no object": ({"rank_pattern": [1]}, "an object of module names"),
    "pattern broken": ({"rank_pattern": {"(": 4}}, "does not compile"),
    "pattern explosive": ({"rank_pattern": {"(a+)+x": 4}}, "too intricate"),
    "pattern explosive 2": ({"alpha_pattern": {".*.*.*.*x": 4}}, "too intricate"),
    "pattern explosive 3": ({"alpha_pattern": {"(a|a)" * 20: 4}}, "too intricate"),
    "targets missing": ({"target_modules": None}, "a list of module names"),
    "targets empty": ({"target_modules": []}, "a list of module names"),
    "excluded numbers": ({"exclude_modules": [1]}, "exclude_modules is .*a list of module names"),
    "targets numbers": ({"target_modules": [1]}, "a list of module names"),
    "rslora text": ({"use_rslora": "yes"}, "true or false"),
    "init number": ({"init_lora_weights": 3}, "true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_advice(name):
    changes, message = REFUSED[name]
    with pytest.raises(AdapterRejected, match=message) as caught:
        check_config(config(**changes), 16)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", [None, [], "LORA", 3])
def test_no_object(raw):
    with pytest.raises(AdapterRejected, match="is not an object"):
        check_config(raw, 16)


def test_ranks_follow_the_patterns_as_peft_reads_them():
    checked = check_config(config(rank_pattern={"q_proj": 2, "layers.1.*v_proj": 8}), 16)
    ranks = [checked.rank_of(f"model.layers.{layer}.self_attn.{p}") for layer in (0, 1) for p in ("q_proj", "v_proj")]
    assert ranks == [2, 4, 2, 8]
    assert checked.rank_of("model.layers.0.self_attn.my_q_proj") == 4  # only at a dot


def test_the_canonical_form_forgets_order_place_and_program():
    one = config(base_model_name_or_path="/a", peft_version="0.1", target_modules=["q_proj", "v_proj"])
    two = dict(reversed(config(base_model_name_or_path="/b", target_modules=["v_proj", "q_proj"]).items()))
    assert check_config(one, 16).canonical() == check_config(two, 16).canonical()
    assert check_config(config(lora_alpha=9), 16).canonical() != check_config(one, 16).canonical()
    stored = json.loads(check_config(one, 16).canonical())
    assert stored["target_modules"] == ["q_proj", "v_proj"]
    assert "base_model_name_or_path" not in stored


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(peft.lora_config(TARGETS, 4))) | st.text(max_size=10)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_configuration_is_checked_or_refused(changes):
    try:
        checked = check_config({**config(), **changes}, 16)
    except AdapterRejected as error:
        assert str(error)
        return
    assert 1 <= checked.r <= 16
    assert 1 <= checked.rank_of("model.layers.0.self_attn.q_proj") <= 16
    json.loads(checked.canonical())
