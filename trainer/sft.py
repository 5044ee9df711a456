"""Supervised fine-tuning: the loss is on what the assistant says and on nothing else, its end included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.data import EncodedRow
from trainer.job import Job, Outcome
from trainer.model import load_tokenizer
from trainer.options import arguments
from trainer.policy import load_policy
from trainer.training import fit, gold_monitor, held_out_options, without_reference


def run(job: Job) -> Outcome:
    """Train and say what to publish. Raises ConfigError, TrainingError."""
    tokenizer = load_tokenizer(job.base.path)
    monitor = gold_monitor(job, tokenizer)
    return fit(job, make_trainer(job, tokenizer), monitor)


def make_trainer(job: Job, tokenizer: Any) -> Any:
    """TRL's SFTTrainer on sequences that are token ids with labels already: TRL has nothing to mask or to cut."""
    from trl import SFTTrainer

    held_out = job.dataset.held_out
    options = arguments(job, **held_out_options(job))
    model, lora = load_policy(job)
    return without_reference(SFTTrainer)(
        model=model,
        args=options,
        train_dataset=sequences(job.dataset.rows),
        eval_dataset=sequences(held_out) if held_out and options.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=lora,
    )


def sequences(rows: Sequence[EncodedRow]) -> Any:
    """A datasets.Dataset with input_ids and labels."""
    from datasets import Dataset

    found = [sequence for row in rows for sequence in row.sequences]
    return Dataset.from_list([{"input_ids": s.input_ids, "labels": s.labels} for s in found])
