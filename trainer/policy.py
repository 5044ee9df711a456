"""The model that learns: the base that serves, with a LoRA on it or the adapter that is continued."""

from __future__ import annotations

from typing import Any

from adapters.errors import TrainingError
from trainer.config import LoraSettings
from trainer.job import Job
from trainer.model import first_line, load_base


def load_policy(job: Job) -> tuple[Any, Any]:
    """(model, peft_config) as TRL's trainers take them. Seeds everything random first.

    Normally the dequantised base and a LoraConfig: the KL reference is then the base. With `job.init_from` a
    trainable PeftModel and None: TRL copies it as adapter "ref", the KL reference. Raises TrainingError.
    """
    from transformers import set_seed

    set_seed(job.config.seed)
    base = load_base(job.base.path, job.dtype, nf4=job.config.quantization == "nf4")
    if job.init_from is None:
        return base, lora_config(job.config.lora)
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, str(job.init_from), is_trainable=True), None
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise TrainingError(f"init_from {job.config.init_from} cannot be loaded: {first_line(error)}") from error


def lora_config(settings: LoraSettings, task: str = "CAUSAL_LM") -> Any:
    """`[lora]` as PEFT's LoraConfig; `task`: CAUSAL_LM, or SEQ_CLS for a reward model."""
    from peft import LoraConfig

    return LoraConfig(**lora_options(settings), task_type=task)


def lora_options(settings: LoraSettings) -> dict[str, Any]:
    """`[lora]` as PEFT's keywords: lists for tuples, what is empty left out."""
    chosen = settings.model_dump()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items() if value != ()}
