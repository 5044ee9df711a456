"""What a base needs of an engine's memory: weights, KV cache per token, room for adapters. From its files; bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base import read_base
from adapters.errors import ConfigError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be."""

BLOCK = 16
"""Tokens in a block of vLLM's KV cache: a sequence holds whole blocks."""

_ADAPTER_BYTES = 2  # a LoRA weight on the engine: bfloat16


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one base. `lora_width`: the sum of inputs and outputs over all modules that adapters may change."""

    weights: int
    kv_per_token: int
    lora_width: int

    def adapter(self, rank: int) -> int:
        """Bytes of an adapter of this rank on all linear layers: an upper bound."""
        return self.lora_width * rank * _ADAPTER_BYTES

    def sequence(self, tokens: float) -> int:
        """Bytes of KV cache that a sequence of so many tokens holds at its end."""
        blocks = -(-int(tokens + 0.999999) // BLOCK)
        return blocks * BLOCK * self.kv_per_token


def read_shape(base: Path, kv_bytes: int = 2, cache_dir: Path | None = None) -> Shape:
    """The shape of the checkpoint in folder `base`; `kv_bytes` a number in the KV cache. Raises ConfigError."""
    info = read_base(base, cache_dir)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config")
    width = sum(out + inside for name, (out, inside) in info.modules.items() if ".layers." in name)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    values = kv_values(text if isinstance(text, dict) else config, base)
    return Shape(weights, values * kv_bytes, width)


def kv_values(config: Mapping[str, Any], base: Path) -> int:
    """Numbers in the KV cache per token, over all layers: keys and values of each KV head.

    With latent attention (DeepSeek's MLA) one compressed vector and the rotary part. Sliding windows are not taken off:
    an upper bound. Raises ConfigError when config.json does not say.
    """
    try:
        layers = int(config["num_hidden_layers"])
        if config.get("kv_lora_rank"):
            return layers * (int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"]))
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ConfigError(f"base {base}: config.json tells no KV cache size: leave --gpu-memory out") from None
    return layers * 2 * kv_heads * width


def rank_setting(rank: int) -> int:
    """The smallest engine.max_lora_rank that takes adapters of this rank. Raises ConfigError."""
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise ConfigError(f"rank {rank}: vLLM takes adapters up to rank {RANKS[-1]}")
