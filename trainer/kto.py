"""Kahneman-Tversky optimisation on thumbs: single answers that were liked or not."""

from __future__ import annotations

from typing import Any

from adapters.errors import ConfigError
from trainer.job import Job, Outcome
from trainer.model import load_tokenizer
from trainer.options import arguments
from trainer.policy import load_policy
from trainer.preferences import messages
from trainer.training import fit, gold_monitor, held_out_options, without_reference

COLUMNS = ("prompt", "completion", "label")


def run(job: Job) -> Outcome:
    """Train and say what to publish. Raises ConfigError, TrainingError."""
    tokenizer = load_tokenizer(job.base.path)
    monitor = gold_monitor(job, tokenizer)
    return fit(job, make_trainer(job, tokenizer), monitor)


def make_trainer(job: Job, tokenizer: Any) -> Any:
    """TRL's KTOTrainer on thumbs, each kind weighted so that both count the same unless `[trainer]` says."""
    from trl import KTOTrainer

    held_out = job.dataset.held_out
    options = arguments(job, **held_out_options(job), **balanced(job))
    if options.per_device_train_batch_size < 2:
        raise ConfigError("trainer.per_device_train_batch_size is 1: KTO compares answers of a batch, take 2 or more")
    model, lora = load_policy(job)
    return without_reference(KTOTrainer)(
        model=model,
        args=options,
        train_dataset=messages(job.dataset.rows, *COLUMNS),
        eval_dataset=messages(held_out, *COLUMNS) if held_out and options.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=lora,
    )


def balanced(job: Job) -> dict[str, float]:
    """The rarer kind's weight, so that weight · count is the same for both (Ethayarajh et al. 2024 ask for 1:1 to 4:3).

    Empty where `[trainer]` gives a weight.
    """
    if {"desirable_weight", "undesirable_weight"} & job.config.trainer.keys():
        return {}
    up = sum(row.row.data["label"] for row in job.dataset.rows)
    down = len(job.dataset.rows) - up
    if up < down:
        return {"desirable_weight": round(down / up, 4)}
    return {"undesirable_weight": round(up / down, 4)}
