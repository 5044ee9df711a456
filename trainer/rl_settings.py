"""`[completions]`, `[prompts]` and `[health]` of a training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from adapters.settings import Section


class CompletionSettings(Section):
    """`[completions]`: who writes the answers that GRPO and RLOO learn from."""

    source: Literal["transformers", "vllm"] = Field(
        "transformers", description='"transformers" samples in this process; "vllm" from an engine with run-time LoRA'
    )
    url: str = Field("", description='the engine, "http://host:port" or "unix:/path" (source = "vllm")')
    api_key: SecretStr = Field(SecretStr(""), description="the engine's API key")
    shared_dir: str = Field(
        "", description="where each step's adapter is written for the engine; empty: in the run directory"
    )
    engine_dir: str = Field("", description="where the engine sees shared_dir, if that differs")
    timeout: float = Field(300.0, gt=0, description="seconds one batch of completions may take")
    max_logprob_gap: float = Field(
        0.1, gt=0, description="alarm: mean |engine − trainer| of a sampled token's logprob, nats"
    )
    gap_patience: int = Field(3, ge=1, description="steps in a row above max_logprob_gap that stop the run")

    @model_validator(mode="after")
    def _has_a_url(self) -> CompletionSettings:
        if self.source == "vllm" and not self.url:
            raise ValueError('source = "vllm" needs url, the address of an engine with run-time LoRA')
        return self


class PromptSettings(Section):
    """`[prompts]`: which prompts GRPO and RLOO train on. A prompt whose answers all score alike teaches nothing."""

    samples: int = Field(8, ge=0, description="answers of the start policy that are scored per prompt; 0 = no filter")
    low: float = Field(0.1, ge=0, le=1, description="keep prompts that at least this share of answers solves")
    high: float = Field(0.9, ge=0, le=1, description="keep prompts that at most this share of answers solves")
    limit: int = Field(2000, ge=1, description="prompts that are tried, at most; the others are left out")

    @model_validator(mode="after")
    def _is_a_range(self) -> PromptSettings:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self


class HealthSettings(Section):
    """`[health]`: how a run is watched, and what happens when its reward rises while gold falls."""

    on_collapse: Literal["stop", "mark"] = Field(
        "stop", description='"stop" ends the run, "mark" goes on; both mark every version from after the turn'
    )
    publish: Literal["best", "last"] = Field(
        "best", description='"best": the checkpoint with the highest gold; "last": the last one, marked or not'
    )
    every: int = Field(5, ge=1, description="optimizer steps between two looks at the held-out prompts")
    prompts: int = Field(64, ge=8, description="held-out prompts of a look; more find a smaller fall")
    samples: int = Field(2, ge=1, description="answers per held-out prompt; their mean is one observation")
    max_tokens: int = Field(0, ge=0, description="longest answer of a look; 0: as in training")
    temperature: float = Field(1.0, gt=0, description="of a look's answers")
    batch: int = Field(128, ge=1, description="answers of a look that are sampled at once")
    alpha: float = Field(0.05, gt=0, lt=1, description="chance that a run is ever called collapsed though it is not")
    gold_drop: float = Field(0.03, ge=0, lt=1, description="fall of gold (0..1) from its best look that must be exceeded")
    reward_slack: float = Field(
        0.15, ge=0, description="standard deviations the reward may lie below its value at gold's best look"
    )
    constant_steps: int = Field(5, ge=1, description="steps in a row with one and the same reward that stop the run")
    missing_steps: int = Field(1, ge=1, description="steps in a row without any reward that stop the run")
    sample_rows: int = Field(16, ge=0, description="answers of each look that samples.jsonl keeps")
    metrics_port: int = Field(0, ge=0, le=65535, description="serve training_* metrics on this local port; 0 = file only")
