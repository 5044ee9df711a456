"""The model that learns: the base that serves, with a LoRA on it or the adapter that is continued."""

from __future__ import annotations

from typing import Any

from trainer.config import LoraSettings
from trainer.job import Job


def load_policy(job: Job) -> Any:
    """A trainable PEFT model on the dequantised base: a new LoRA, or `job.init_from`. Raises TrainingError."""
    raise NotImplementedError


def lora_config(settings: LoraSettings, task: str = "CAUSAL_LM") -> Any:
    """`[lora]` as PEFT's LoraConfig; `task`: CAUSAL_LM, or SEQ_CLS for a reward model."""
    raise NotImplementedError
