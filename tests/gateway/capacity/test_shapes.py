"""Bytes of weights, KV cache and adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.capacity.shapes import kv_values, rank_setting, read_shape


def test_the_shipped_base_by_hand(demo_base):
    shape = read_shape(demo_base.path)
    assert shape.kv_per_token == 4 * 2 * 2 * 32 * 2  # layers, keys and values, KV heads, width, bytes
    assert shape.sequence(1) == 16 * shape.kv_per_token and shape.sequence(16.5) == 32 * shape.kv_per_token
    attention = (128 + 128) + 2 * (64 + 128) + (128 + 128)  # q, k, v, o: outputs and inputs
    mlp = 3 * (384 + 128)
    assert shape.lora_width == 4 * (attention + mlp)
    assert shape.adapter(16) == shape.lora_width * 16 * 2
    assert shape.weights == (demo_base.path / "model.safetensors").stat().st_size
    assert read_shape(demo_base.path, 1).kv_per_token == shape.kv_per_token // 2


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}, 163_840),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 2 * 2 * 64),
        ({"num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 61 * 576),
    ],
    ids=["llama-70b", "every-head", "latent"],
)
def test_kv_values(config, values):
    assert kv_values(config, Path("b")) == values


def test_a_config_that_does_not_say_is_one_line():
    with pytest.raises(ConfigError, match="leave --gpu-memory out"):
        kv_values({"num_hidden_layers": 2}, Path("b"))


def test_ranks_that_vllm_takes():
    assert [rank_setting(rank) for rank in (1, 2, 8, 9, 64, 300, 512)] == [1, 8, 8, 16, 64, 320, 512]
    with pytest.raises(ConfigError, match="up to rank 512"):
        rank_setting(513)
