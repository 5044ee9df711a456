"""Direct preference optimisation on pairs of answers."""

from __future__ import annotations

from typing import Any

from trainer.job import Job, Outcome
from trainer.model import load_tokenizer
from trainer.options import arguments
from trainer.policy import load_policy
from trainer.preferences import messages, pair_accuracy
from trainer.training import fit, gold_monitor, held_out_options, without_reference

COLUMNS = ("prompt", "chosen", "rejected")


def run(job: Job) -> Outcome:
    """Train and say what to publish; with gold graders, an over-optimised run is marked or stopped by its health.

    Over-optimised: the held-out pairs are told apart as well as ever while gold falls. Raises ConfigError,
    TrainingError.
    """
    tokenizer = load_tokenizer(job.base.path)
    watched = job.dataset.held_out[: job.config.health.prompts]
    monitor = gold_monitor(job, tokenizer, pair_accuracy(watched, "ref" if job.init_from else None))
    return fit(job, make_trainer(job, tokenizer), monitor)


def make_trainer(job: Job, tokenizer: Any) -> Any:
    """TRL's DPOTrainer on pairs. The reference is the base, or the adapter that is continued."""
    from trl import DPOTrainer

    held_out = job.dataset.held_out
    options = arguments(job, **held_out_options(job))
    model, lora = load_policy(job)
    return without_reference(DPOTrainer)(
        model=model,
        args=options,
        train_dataset=messages(job.dataset.rows, *COLUMNS),
        eval_dataset=messages(held_out, *COLUMNS) if held_out and options.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=lora,
    )
