"""What SFT, DPO, KTO and reward models share: one TRL trainer, watched, resumed exactly, saved for publishing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from monitors.rewards.build import build_graders, prepare
from monitors.rewards.composite import Composite
from trainer.graders import stored_version
from trainer.health import HealthMonitor, Proxy, Watched
from trainer.job import Job, Outcome
from trainer.session import is_first
from trainer.training_metrics import metrics_of


def fit(job: Job, trainer: Any, monitor: Any = None) -> Outcome:
    """Train to the end, from `job.resume_from` where there is one; returns the weights to publish.

    `monitor`: a HealthMonitor that watches; it then decides between the best and the last weights.
    """
    from transformers import PrinterCallback

    from trainer.callbacks import callbacks
    from trainer.health_callback import HealthCallback, save_adapter

    trainer.remove_callback(PrinterCallback)
    if monitor is not None:
        health = HealthCallback(monitor, metrics_of(job))
        health.attach(trainer)
        trainer.add_callback(health)  # before the one that marks checkpoints whole
        if job.resume_from is not None:
            monitor.restore(job.resume_from)
    for callback in callbacks(job):
        trainer.add_callback(callback)
    train_to_end(job, trainer, ended=monitor is not None and monitor.ended)
    last = job.run.path / "last"
    save_adapter(trainer, last)
    if monitor is None:
        return Outcome(last, trainer.state.global_step)
    outcome: Outcome = monitor.outcome(last, trainer.state.global_step)
    return outcome


def train_to_end(job: Job, trainer: Any, *, ended: bool = False) -> None:
    """TRL's train(), from the newest whole checkpoint; nothing but its weights are loaded if that is the last one.

    transformers would take one step more than max_steps then, and publish other weights than an uninterrupted run.
    `ended`: the last one it is also where the health monitor had stopped the run.
    """
    if job.resume_from is None:
        trainer.train()
        return
    state = json.loads((job.resume_from / "trainer_state.json").read_text(encoding="utf-8"))
    if ended or state["global_step"] >= state["max_steps"]:
        trainer._load_from_checkpoint(str(job.resume_from))
        trainer.state.global_step = state["global_step"]
        return
    trainer.train(resume_from_checkpoint=str(job.resume_from))


def gold_monitor(job: Job, tokenizer: Any, proxy: Proxy | None = None) -> HealthMonitor | None:
    """Watches held-out prompts with the gold graders of `[[reward]]`; None where there are none.

    `proxy`: what stands for the reward in algorithms without one (DPO's pair accuracy). Raises ConfigError when gold
    graders have nothing to look at.
    """
    specs = [spec.model_copy(update={"gold": False}) for spec in job.config.reward if spec.gold]
    if not specs:
        return None
    rows = [encoded.row.data for encoded in job.dataset.held_out if "prompt" in encoded.row.data]
    if not rows:
        raise ConfigError("gold graders look at held-out prompts: give data.eval, rows with prompt (and answer, …)")
    graders = build_graders(specs, job.folder, find_version=stored_version(job.installation))
    prepare(graders)
    watched = Watched(
        rows[: job.config.health.prompts], proxy, Composite(graders, specs, "gold"), max_tokens=longest_answer(job),
        reference="ref" if job.init_from else None,
    )  # fmt: skip
    return HealthMonitor(watched, job.config.health, job.run, tokenizer, seed=job.config.seed)


def longest_answer(job: Job) -> int:
    """Tokens that a watched answer may take: twice the longest one that is trained on, so that babble shows."""
    longest = max((s.trained for row in job.dataset.rows for s in row.sequences), default=128)
    return min(2 * longest, job.context_length // 2)


def without_reference(kind: Any) -> Any:
    """A TRL trainer class whose checkpoints leave TRL's copy of the reference adapter out.

    With it, transformers would not restore the trained adapter from a checkpoint.
    """

    class Trainer(kind):  # type: ignore[misc]  # TRL has no types
        """See above."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            if is_first():
                shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)

    Trainer.__name__ = kind.__name__
    return Trainer


def with_facts(outcome: Outcome, facts: Mapping[str, Any]) -> Outcome:
    """The same with more numbers for lineage and report."""
    return replace(outcome, facts={**outcome.facts, **facts})


def held_out_options(job: Job) -> dict[str, Any]:
    """Evaluate on data.eval every health.every · 10 steps unless `[trainer]` says otherwise."""
    if not job.dataset.held_out or "eval_strategy" in job.config.trainer:
        return {}
    return {"eval_strategy": "steps", "eval_steps": job.config.trainer.get("eval_steps", job.config.health.every * 10)}
