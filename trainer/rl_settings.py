"""Sections of a training file that reinforcement learning and the health monitors read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapters.settings import Section


class CompletionsSettings(Section):
    """`[completions]`: where GRPO and RLOO get their completions from."""

    source: Literal["transformers", "vllm"] = Field(
        "transformers", description="this process, or any vLLM with run-time LoRA"
    )
    url: str = Field("", description='with source = "vllm": its address, http://host:port or unix:/path')
    api_key: str = Field("", description="with source = \"vllm\": its --api-key")
    timeout: float = Field(120.0, gt=0, description="seconds one batch of completions may take")


class PromptFilterSettings(Section):
    """`[prompt_filter]`: prompts that the starting policy always or never solves teach RL nothing."""

    enabled: bool = Field(True, description="sample every prompt before training and keep those in between")
    samples: int = Field(8, ge=2, description="completions per prompt")
    low: float = Field(0.1, ge=0, le=1, description="lowest pass rate that is kept")
    high: float = Field(0.9, ge=0, le=1, description="highest pass rate that is kept")


class HealthSettings(Section):
    """`[health]`: what is watched during training, and what happens when the reward rises while quality falls."""

    on_collapse: Literal["stop", "mark"] = Field("stop", description="end the run, or only mark its version")
    publish: Literal["best", "last"] = Field("best", description="the best checkpoint by gold, or the last one")
    every: int = Field(5, ge=1, description="steps between two measurements on held-out prompts")
    prompts: int = Field(64, ge=8, description="held-out prompts per measurement")
    thresholds: dict[str, float] = Field(default_factory=dict, description="overrides of the rules' thresholds")
