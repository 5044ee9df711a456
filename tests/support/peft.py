"""Small bases and adapters, written as the tools of the trade write them, for tests to break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import load_file, save_file

from adapters.base import BaseModelInfo, read_base

HIDDEN, MIDDLE, VOCABULARY, LAYERS = 16, 24, 40, 3
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (8, HIDDEN), "mlp.down_proj": (HIDDEN, MIDDLE)}


def plain_tensors() -> dict[str, numpy.ndarray]:
    """The weights of a tiny Llama: embeddings, three linear layers in each of three layers, norms."""
    tensors = {"model.embed_tokens.weight": numpy.zeros((VOCABULARY, HIDDEN), "f4")}
    for layer in range(LAYERS):
        for module, shape in SHAPES.items():
            tensors[f"model.layers.{layer}.{module}.weight"] = numpy.zeros(shape, "f4")
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = numpy.ones(HIDDEN, "f4")
    return tensors


def write_base(folder: Path, tensors: dict[str, numpy.ndarray] | None = None, **config: Any) -> Path:
    """A checkpoint folder: config.json, model.safetensors and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": "llama", "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings | config))
    (folder / "tokenizer.json").write_text("{}")
    save_file(plain_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder


def lora_tensors(base: BaseModelInfo, targets: tuple[str, ...], rank: int, seed: int = 0) -> dict[str, numpy.ndarray]:
    """lora_A and lora_B of every module of the base whose name ends with one of `targets`."""
    random = numpy.random.default_rng(seed)
    tensors = {}
    for module, (out, inside) in base.modules.items():
        if module.endswith(targets):
            prefix = f"base_model.model.{module}"
            tensors[f"{prefix}.lora_A.weight"] = random.normal(scale=0.1, size=(rank, inside)).astype("f4")
            tensors[f"{prefix}.lora_B.weight"] = random.normal(scale=0.1, size=(out, rank)).astype("f4")
    return tensors


def lora_config(targets: tuple[str, ...], rank: int, **changes: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT 0.21 writes it."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "some/base", "bias": "none",
        "corda_config": None, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 2 * rank, "lora_bias": False,
        "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": rank, "rank_pattern": {},
        "revision": None, "target_modules": list(targets), "target_parameters": None, "task_type": "CAUSAL_LM",
        "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False, **changes,
    }  # fmt: skip


def write_adapter(
    folder: Path, base: BaseModelInfo, *, targets: tuple[str, ...] = ("q_proj", "v_proj"), rank: int = 4,
    seed: int = 0, tensors: dict[str, numpy.ndarray] | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """An adapter folder; `changes` override keys of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(targets, rank, **changes), indent=2))
    weights = lora_tensors(base, targets, rank, seed) if tensors is None else tensors
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def add_score_head(folder: Path) -> Path:
    """Make the adapter in `folder` a reward model, as RewardTrainer and PEFT save it."""
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"] = numpy.ones((1, HIDDEN), "f4")
    save_file(tensors, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    path.write_text(json.dumps(config))
    return folder


def write_raw(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A safetensors file of (type, shape, bytes), for types that numpy has not."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def small_base(folder: Path) -> BaseModelInfo:
    """The tiny base, written and read."""
    return read_base(write_base(folder))
