"""One training run's TOML file: strict, frozen, read once.

Relative paths are relative to the file. Any key can be overridden by UNDERSTUDY_SECTION__KEY, secrets also by _FILE.
The keys of `[trainer]` are TRL's own and are checked against the installed TRL (trainer.options).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from adapters.errors import ConfigError, UnderstudyError
from adapters.routes import check_route_name
from adapters.settings import Section, load
from monitors.rewards.settings import RewardSpec
from trainer.rl_settings import CompletionsSettings, HealthSettings, PromptFilterSettings

Algorithm = Literal["sft", "dpo", "kto", "reward-model", "grpo", "rloo"]
ALGORITHMS: tuple[Algorithm, ...] = ("sft", "dpo", "kto", "reward-model", "grpo", "rloo")
RL: tuple[Algorithm, ...] = ("grpo", "rloo")


class DataSettings(Section):
    """`[data]`: what is learned from, as JSONL files."""

    train: tuple[Path, ...] = Field(min_length=1, description="one file or a list")
    eval: tuple[Path, ...] = Field((), description="held-out rows for the loss, the accuracy and the health monitors")
    general: tuple[Path, ...] = Field((), description="general chat rows mixed in against forgetting (SFT)")
    general_share: float = Field(0.0, ge=0, lt=1, description="their share of the rows that are trained on")
    deduplicate: bool = Field(True, description="drop near-duplicates")
    similarity: float = Field(0.8, gt=0, le=1, description="3-gram Jaccard similarity of a near-duplicate")
    decontaminate: tuple[Path, ...] = Field((), description="evaluation suites whose prompts must not be trained on")
    truncate: bool = Field(False, description="cut rows that are too long instead of dropping them (SFT)")
    allow_control_tokens: bool = Field(False, description="accept texts that hold tokens of a chat template")

    @field_validator("train", "eval", "general", "decontaminate", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class LoraSettings(Section):
    """`[lora]`: PEFT's names. What the engines cannot serve is refused before training."""

    r: int = Field(16, ge=1, description="rank; at most engine.max_lora_rank")
    lora_alpha: float = Field(32, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before lora_A, while training")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="module names, or a pattern")
    exclude_modules: tuple[str, ...] = Field((), description="module names to leave out")
    layers_to_transform: tuple[int, ...] = Field((), description="only these layers")
    use_rslora: bool = Field(False, description="scale by lora_alpha / sqrt(r)")
    init_lora_weights: bool | str = Field(True, description='true, or "gaussian"; not pissa, olora or loftq')
    use_dora: bool = Field(False, description="not served: refused")
    modules_to_save: tuple[str, ...] = Field((), description="not served: refused")
    bias: str = Field("none", description="only none is served")


class RunConfig(Section):
    """The whole file."""

    route: str = Field(description="the version is registered for this route")
    base: str = Field("", description='path, hub id or "demo"; empty: the engines\' engine.base_model')
    quantization: Literal["", "nf4"] = Field("", description="nf4: QLoRA, where the engines serve bitsandbytes")
    allow_base_mismatch: bool = Field(False, description="train on other weights than those that serve; recorded")
    init_from: str = Field("", description="continue this version; the KL reference is then it, not the base")
    output_dir: Path = Field(description="the run directory")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU, else float32")
    processes: int = Field(0, ge=0, description="how many processes must take part; 0 = as many as were started")
    threads: int = Field(0, ge=0, description="CPU threads; 0 = torch's choice. Part of what makes runs repeatable")
    data: DataSettings
    lora: LoraSettings = LoraSettings()
    trainer: dict[str, Any] = Field(default_factory=dict, description="TRL's own options")
    reward: tuple[RewardSpec, ...] = ()
    completions: CompletionsSettings = CompletionsSettings()
    prompt_filter: PromptFilterSettings = PromptFilterSettings()
    health: HealthSettings = HealthSettings()

    @field_validator("route")
    @classmethod
    def _route_name(cls, value: str) -> str:
        try:
            check_route_name(value)
        except UnderstudyError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def seed(self) -> int:
        """The seed of everything random in the run."""
        return int(self.trainer.get("seed", 42))


def load_run_config(path: Path, algorithm: Algorithm) -> RunConfig:
    """Read one run's file for `algorithm`; paths in the result are absolute. Raises ConfigError, in one line."""
    config = _absolute(load(RunConfig, path), path.resolve().parent)
    trained = [spec for spec in config.reward if not spec.gold]
    if algorithm in RL and not trained:
        raise ConfigError(f"{path}: {algorithm} needs a [[reward]] to train on (one without gold = true)")
    if algorithm not in RL and trained:
        raise ConfigError(f"{path}: {algorithm} trains on no reward: mark [[reward]] {trained[0].name!r} gold = true")
    if algorithm == "reward-model" and config.reward:
        raise ConfigError(f"{path}: a reward model is judged on held-out pairs: leave [[reward]] out")
    if config.data.general and algorithm != "sft":
        raise ConfigError(f"{path}: data.general is for sft; {algorithm} has its KL reference against forgetting")
    if bool(config.data.general) != (config.data.general_share > 0):
        raise ConfigError(f"{path}: data.general and data.general_share belong together: give both or neither")
    if config.completions.source == "vllm" and not config.completions.url:
        raise ConfigError(f'{path}: completions.source = "vllm" needs completions.url')
    return config


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    """The same with every path resolved against the file's folder."""
    names = ("train", "eval", "general", "decontaminate")
    files = {name: tuple(folder / path for path in getattr(config.data, name)) for name in names}
    data = config.data.model_copy(update=files)
    return config.model_copy(update={"data": data, "output_dir": folder / config.output_dir})
