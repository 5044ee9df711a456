"""`[completions]`, `[prompt_filter]` and `[health]` of a training file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from adapters.settings import Section


class CompletionsSettings(Section):
    """`[completions]`: who writes the answers that GRPO and RLOO learn from."""

    source: Literal["transformers", "vllm"] = Field(
        "transformers", description="this process, or any vLLM with run-time LoRA"
    )
    url: str = Field("", description='with source = "vllm": its address, http://host:port or unix:/path')
    api_key: SecretStr = Field(SecretStr(""), description='with source = "vllm": its --api-key')
    shared_dir: str = Field(
        "", description="where each step's adapter is written for the engine; empty: in the run directory"
    )
    engine_dir: str = Field("", description="where the engine sees shared_dir, if that differs")
    timeout: float = Field(120.0, gt=0, description="seconds one batch of completions may take")
    max_logprob_gap: float = Field(
        0.1, gt=0, description="alarm: mean distance of the engine's and the trainer's logprob of a sampled token, nats"
    )
    gap_patience: int = Field(3, ge=1, description="steps in a row above max_logprob_gap that stop the run")


class PromptFilterSettings(Section):
    """`[prompt_filter]`: prompts that the starting policy always or never solves teach RL nothing."""

    enabled: bool = Field(True, description="sample every prompt before training and keep those in between")
    samples: int = Field(8, ge=2, description="completions per prompt")
    low: float = Field(0.1, ge=0, le=1, description="lowest pass rate that is kept")
    high: float = Field(0.9, ge=0, le=1, description="highest pass rate that is kept")
    limit: int = Field(2000, ge=1, description="prompts that are tried, at most")

    @model_validator(mode="after")
    def _is_a_range(self) -> PromptFilterSettings:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self


class HealthSettings(Section):
    """`[health]`: what is watched during training, and what happens when the reward rises while gold falls."""

    on_collapse: Literal["stop", "mark"] = Field("stop", description="end the run, or go on and only mark its versions")
    publish: Literal["best", "last"] = Field(
        "best", description="the best checkpoint by gold, or the last one, marked or not"
    )
    every: int = Field(5, ge=1, description="optimizer steps between two looks at held-out prompts")
    prompts: int = Field(64, ge=8, description="held-out prompts of a look; more find a smaller fall")
    samples: int = Field(2, ge=1, description="answers per held-out prompt; their mean is one observation")
    max_tokens: int = Field(0, ge=0, description="longest answer of a look; 0: as in training, else 256")
    temperature: float = Field(1.0, gt=0, description="of a look's answers")
    batch: int = Field(128, ge=1, description="answers of a look that are sampled at once")
    alpha: float = Field(0.05, gt=0, lt=1, description="chance that a sound run is ever called collapsed")
    gold_drop: float = Field(0.03, ge=0, lt=1, description="a fall of gold (0..1) that does not count")
    reward_slack: float = Field(
        0.15, ge=0, description="standard deviations the reward may lie below its value at gold's best look"
    )
    constant_steps: int = Field(5, ge=1, description="steps in a row with one and the same reward that stop the run")
    missing_steps: int = Field(1, ge=1, description="steps in a row without any reward that stop the run")
    sample_rows: int = Field(16, ge=0, description="answers of each look that samples.jsonl keeps")
    metrics_port: int = Field(0, ge=0, le=65535, description="local port for training_* metrics; 0 = file only")
