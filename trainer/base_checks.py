"""Is what will be trained what serves? LoRA settings, the base's weights, its context; before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.adapter_config import HEAD, check_config
from adapters.base import BaseModelInfo, read_base, resolve_base
from adapters.errors import AdapterRejected, ConfigError
from trainer.config import Algorithm, RunConfig
from trainer.installation import Installation
from trainer.model import DType, quantization_method
from trainer.policy import lora_options


@dataclass(frozen=True)
class Bases:
    """The base that is trained on, the one that serves, and how they differ (None: not at all)."""

    trained: BaseModelInfo
    serving: BaseModelInfo
    mismatch: dict[str, str] | None


def check_lora(config: RunConfig, algorithm: Algorithm, max_rank: int) -> None:
    """`[lora]` is what the engines serve. Raises ConfigError before training; the registry would refuse it after."""
    if config.init_from and "lora" in config.model_fields_set:
        raise ConfigError("[lora] and init_from exclude each other: the continued adapter keeps its own settings")
    options = lora_options(config.lora)
    if algorithm == "reward-model":
        saved = [module for module in options.pop("modules_to_save", []) if module != HEAD]
        options |= {"modules_to_save": saved} if saved else {}
    try:
        check_config({"peft_type": "LORA", **options}, max_rank)
    except AdapterRejected as error:
        raise ConfigError(f"[lora] {error}") from None


def find_bases(config: RunConfig, installation: Installation) -> Bases:
    """Resolve, read and compare the two bases. Raises ConfigError when they differ and that is not allowed."""
    engine, cache = installation.engine, installation.data_dir / "cache"
    serving = read_base(resolve_base(engine.base_model), cache)
    trained = read_base(resolve_base(config.base), cache) if config.base else serving
    reason = difference(
        config, quantization_method(trained.path), engine.quantization, same=trained.digest == serving.digest
    )
    if reason is None:
        return Bases(trained, serving, None)
    if not config.allow_base_mismatch:
        raise ConfigError(f"{reason} (allow_base_mismatch = true trains all the same, and records it)")
    facts = {"trained_on": trained.digest, "serving": serving.digest, "quantization": config.quantization or "expanded"}
    return Bases(trained, serving, {**facts, "reason": reason})


def difference(config: RunConfig, stored: str | None, served: str, *, same: bool) -> str | None:
    """Why training would see other weights than serving, or None.

    `stored`: the checkpoint's own quantization; `served`: engine.quantization, what the engines do when they load it.
    """
    if not same:
        return f"base {config.base!r} is not the checkpoint that the engines serve (engine.base_model)"
    nf4_serves = "bitsandbytes" in (stored, served)
    if config.quantization == "nf4" and not nf4_serves:
        return 'quantization = "nf4", but the engines serve the base as it is (no engine.quantization = "bitsandbytes")'
    if config.quantization != "nf4" and nf4_serves:
        return 'the engines serve the base as NF4 (bitsandbytes): set quantization = "nf4"'
    if served not in ("", "bitsandbytes") and served != stored:
        return f"the engines quantize the base with {served} when they load it, which cannot be reproduced here"
    return None


def context_length(base: Path, installation: Installation) -> int:
    """Tokens that the engines serve: engine.max_model_len, else the model's own. Raises ConfigError if neither says."""
    limit = installation.engine.max_model_len
    config: Mapping[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    own = text.get("max_position_embeddings")
    if not limit and not isinstance(own, int):
        raise ConfigError(f"base {base}: config.json gives no max_position_embeddings: set engine.max_model_len")
    return min(filter(None, (limit, own if isinstance(own, int) else 0)))


def choose_dtype(config: RunConfig, *, gpu: bool) -> DType:
    """The precision of weights and arithmetic: bfloat16 on a GPU, float32 on a CPU, unless the file says otherwise."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if gpu else "float32"
