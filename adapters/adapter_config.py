"""Checks a PEFT adapter_config.json: is this a LoRA that vLLM serves as it was trained?

What vLLM refuses is in its vllm/lora/peft_helper.py; what it silently ignores is refused here. Keys are those of
peft.LoraConfig. A key that this file does not know passes only while it is off (null, false, empty).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from adapters.errors import AdapterRejected
from adapters.types import Kind

HEAD = "score"
"""The module of a reward model that is saved whole: one number from the last hidden state."""

_LARGEST_SCALE = 1000.0
_NOT_IDENTITY = ("base_model_name_or_path", "peft_version")
_HARMLESS = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "use_rslora", "init_lora_weights", "lora_dropout", "bias", "base_digest",
    # These only shaped training, or belong to an init or method whose own key is checked.
    "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "ensure_weight_tying",
})  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA is not served by vLLM: train with use_dora=False",
    "lora_bias": "a LoRA bias is not served by vLLM: train with lora_bias=False",
    "modules_to_save": "whole modules are not part of a LoRA: train with modules_to_save=None",
    "fan_in_fan_out": "bases with Conv1D layers are not supported: train with fan_in_fan_out=False",
    "layer_replication": "the base would need other layers: train with layer_replication=None",
    "trainable_token_indices": "new token embeddings are not part of a LoRA: train with trainable_token_indices=None",
    "target_parameters": "LoRA on fused expert parameters cannot be checked here: target linear modules instead",
    "alora_invocation_tokens": "Activated LoRA is not served by vLLM: train a plain LoRA",
    "use_qalora": "QALoRA is not served by vLLM: train with use_qalora=False",
    "use_bdlora": "block-diagonal LoRA is not served by vLLM: train with use_bdlora=None",
    "megatron_config": "Megatron layouts are not served: train with megatron_config=None",
}
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})  # they leave the base as it is


@dataclass(frozen=True)
class AdapterConfig:
    """The checked configuration. `targets`: module name endings, or None where target_modules is a pattern."""

    raw: dict[str, Any]
    r: int
    targets: tuple[str, ...] | None
    rank_pattern: dict[str, int] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank PEFT and vLLM give to `module`: the first pattern that matches its ending, else r."""
        matches = (rank for key, rank in self.rank_pattern.items() if re.match(rf"(.*\.)?({key})$", module))
        return next(matches, self.r)

    @property
    def partial(self) -> bool:
        """True when not every layer with a target module needs to carry tensors."""
        return any(self.raw.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))

    def canonical(self) -> bytes:
        """The bytes that are hashed and stored: sorted, and without what does not change the weights' meaning."""
        kept = {key: value for key, value in self.raw.items() if key not in _NOT_IDENTITY}
        for key in ("target_modules", "exclude_modules"):  # sets, which PEFT writes in any order
            if isinstance(kept.get(key), list):
                kept[key] = sorted(kept[key])
        return json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def check_config(raw: Any, max_rank: int, kind: Kind = Kind.ADAPTER) -> AdapterConfig:
    """Check the parsed adapter_config.json. Raises AdapterRejected.

    A reward model, which no engine serves, saves its score head as the one whole module.
    """
    if not isinstance(raw, dict):
        raise AdapterRejected("adapter_config.json is not an object: save the adapter with PEFT's save_pretrained")
    if str(raw.get("peft_type")).upper() != "LORA":
        raise AdapterRejected(f"peft_type is {_show(raw.get('peft_type'))}: only LORA adapters are served")
    if kind is Kind.REWARD_MODEL:
        _check_head(raw)
    _check_features({**raw, "modules_to_save": None} if kind is Kind.REWARD_MODEL else raw)
    r = _rank("r", raw.get("r"), max_rank)
    ranks = {key: _rank(f"rank_pattern[{key!r}]", rank, max_rank) for key, rank in _patterns(raw, "rank_pattern")}
    alphas = [("lora_alpha", raw.get("lora_alpha")), *_patterns(raw, "alpha_pattern")]
    for key, alpha in alphas:
        _check_alpha(key, alpha, min([r, *ranks.values()]), rslora=raw.get("use_rslora") is True)
    if raw.get("exclude_modules"):
        _names("exclude_modules", raw["exclude_modules"])
    return AdapterConfig(raw, r, _names("target_modules", raw.get("target_modules")), ranks)


def _check_head(raw: dict[str, Any]) -> None:
    if raw.get("task_type") != "SEQ_CLS" or raw.get("modules_to_save") != [HEAD]:
        found = f"{_show(raw.get('task_type'))} and {_show(raw.get('modules_to_save'))}"
        raise AdapterRejected(
            f"a reward model has task_type SEQ_CLS and modules_to_save [{HEAD!r}], not {found}: "
            "make one with `understudy train reward-model`"
        )


def _check_features(raw: dict[str, Any]) -> None:
    for key, advice in _REFUSED.items():
        if raw.get(key):
            raise AdapterRejected(f"{key} is {_show(raw[key])}: {advice}")
    if raw.get("bias", "none") != "none":
        raise AdapterRejected(f"bias is {_show(raw['bias'])}: vLLM serves no adapter bias, train with bias='none'")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise AdapterRejected(
            f"init_lora_weights is {_show(init)}, which changes the base's weights: convert to a plain LoRA with "
            "save_pretrained(path_initial_model_for_weight_conversion=…)"
        )
    for key in ("use_rslora", "init_lora_weights"):
        if not isinstance(raw.get(key), bool | str | None) or (key == "use_rslora" and isinstance(raw.get(key), str)):
            raise AdapterRejected(f"{key} is {_show(raw[key])}: it should be true or false")
    for key in sorted(raw.keys() - _HARMLESS - _REFUSED.keys()):
        if raw[key]:
            raise AdapterRejected(f"{_show(key)} is {_show(raw[key])}: not known to be served; train a plain LoRA")


def _rank(key: str, value: Any, max_rank: int) -> int:
    if type(value) is not int or value < 1:
        raise AdapterRejected(f"{key} is {_show(value)}: it should be a whole number from 1 to {max_rank}")
    if value > max_rank:
        raise AdapterRejected(
            f"{key} is {value}, the engines take up to {max_rank}: train with a smaller rank, or raise "
            "engine.max_lora_rank and restart the engines"
        )
    return value


def _check_alpha(key: str, value: Any, smallest_rank: int, *, rslora: bool) -> None:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not finite or value <= 0:
        raise AdapterRejected(f"{key} is {_show(value)}: it should be a positive number, such as twice r")
    scale = value / (math.sqrt(smallest_rank) if rslora else smallest_rank)
    if scale > _LARGEST_SCALE:
        raise AdapterRejected(f"{key} is {_show(value)}: it scales the adapter by {scale:.0f}, take a smaller one")


def _patterns(raw: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    """The items of rank_pattern or alpha_pattern, whose keys are regular expressions that the engine will run."""
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterRejected(f"{key} is {_show(patterns)}: it should be an object of module names and numbers")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterRejected(f"{key} has the pattern {_show(pattern)}, which does not compile: {error}") from None
        # A pattern that backtracks without end would hang this check, and then every engine that loads the adapter.
        loops, choices = len(re.findall(r"[*+{?]", pattern)), pattern.count("|")
        if len(pattern) > 200 or loops > 2 or choices > 8 or re.search(r"\)[*+{?]|\\[1-9]", pattern):
            raise AdapterRejected(f"{key} has the pattern {_show(pattern)}: too intricate, write module names")
    return list(patterns.items())


def _names(key: str, value: Any) -> tuple[str, ...] | None:
    """A list of module names; None for a pattern, which is text."""
    if isinstance(value, str) and value:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise AdapterRejected(f"{key} is {_show(value)}: it should be a list of module names, such as q_proj")
    return tuple(sorted(set(value)))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
