"""TRL's GRPO and RLOO trainers with the two things they lack here.

Checkpoints without TRL's copy of the reference adapter, which would keep transformers from restoring the trained one;
and completions from an engine, for RLOO too.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.completions import EngineSampler, GapAlarm
from trainer.health_callback import save_adapter
from trainer.job import Job
from trainer.sampling import Answer, logprob_gap, render
from trainer.session import is_first

GAP_ANSWERS = 32
"""Engine answers of a step whose logprobs are compared with the trainer's own."""

SAMPLER_OPTIONS = ("top_p", "top_k", "min_p", "repetition_penalty")
"""TRL's sampling options beside the temperature; vLLM knows them by the same names."""


class EngineCompletions:
    """What the trainers ask for completions: syncs the adapter, samples, and measures the logprob gap."""

    def __init__(self, job: Job, options: Any) -> None:
        self._options = options
        self._template = dict(options.chat_template_kwargs or {})
        self._limit = job.config.completions.max_logprob_gap
        self._alarm = GapAlarm(job.config.completions)
        self._seed = job.config.seed
        self._trainer: Any = None
        self._sampler = EngineSampler(job.config.completions, job.run.name, job.run.path, self._save)

    def check(self, trainer: Any) -> None:
        """Before the run: the engine loads the adapter and answers like the trainer. Raises TrainingError."""
        self._trainer = trainer
        prompt = render(trainer.processing_class, trainer.train_dataset[0]["prompt"], self._template)
        answers = self._answers([prompt], 8)
        gap = self._gap(answers)
        limit = self._limit
        if not gap <= limit:
            raise TrainingError(
                f"the engine's logprobs lie {gap:.3f} nats a token from the trainer's before the first step, above "
                f"completions.max_logprob_gap = {limit:g}: does it serve the run's base, at the same quantization?"
            )

    def rollout(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """TRL's rollout_func: prompts (messages, repeated num_generations times) → token ids and logprobs."""
        ids = [render(trainer.processing_class, prompt, self._template) for prompt in prompts]
        answers = self.complete(ids)
        return {
            "prompt_ids": ids,
            "completion_ids": [list(answer.ids) for answer in answers],
            "logprobs": [list(answer.logprobs) for answer in answers],
        }

    def complete(self, ids: Sequence[Sequence[int]]) -> list[Answer]:
        """One answer to each of the prompts (token ids; equal ones lie together). Raises TrainingError on the alarm."""
        groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, ids))]
        sizes = {size for _, size in groups}
        if len(sizes) == 1:
            answers = self._answers([prompt for prompt, _ in groups], sizes.pop())
        else:  # a group split between ranks: one request for each size
            answers = [a for prompt, size in groups for a in self._answers([prompt], size)]
        gap = self._gap(answers)
        self._trainer._metrics["train"]["health.logprob_gap"].append(gap)
        self._alarm.observe(gap)
        return answers

    def close(self) -> None:
        """Take the adapter off the engine."""
        self._sampler.close()

    def _answers(self, prompts: Sequence[Sequence[int]], samples: int) -> list[Answer]:
        step, options = self._trainer.state.global_step, self._options
        self._sampler.sync(step)
        extra = {name: value for name in SAMPLER_OPTIONS if (value := getattr(options, name)) is not None}
        several = self._sampler.sample(
            prompts, samples=samples, max_tokens=options.max_completion_length, temperature=options.temperature,
            seed=_seed(self._seed, step, self._trainer.accelerator.process_index), **extra,
        )  # fmt: skip
        return [answer for one in several for answer in one]

    def _gap(self, answers: Sequence[Answer]) -> float:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return logprob_gap(model, answers[:: max(1, len(answers) // GAP_ANSWERS)])

    def _save(self, folder: Path) -> None:
        save_adapter(self._trainer, folder)


def make_trainer(job: Job, options: Any, **keywords: Any) -> Any:
    """TRL's trainer of `job.algorithm`; its `engine` is EngineCompletions or None. Raises what TRL raises."""
    import trl

    engine = EngineCompletions(job, options) if job.config.completions.source == "vllm" else None
    kind = trl.GRPOTrainer if job.algorithm == "grpo" else trl.RLOOTrainer
    if engine is not None and job.algorithm == "grpo":
        keywords["rollout_func"] = engine.rollout
    trainer = _extended(kind, engine)(args=options, **keywords)
    trainer.remove_callback(_printer())
    trainer.engine = engine
    return trainer


def _extended(kind: Any, engine: EngineCompletions | None) -> Any:
    class Extended(kind):  # type: ignore[misc]  # TRL has no types
        """See the module's docstring."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            if is_first():
                shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)

        def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **keywords: Any) -> Any:
            if engine is None:
                return super()._generate_single_turn(prompt_ids, *rest, **keywords)
            return [list(answer.ids) for answer in engine.complete(prompt_ids)]  # RLOO; GRPO has rollout_func

    Extended.__name__ = kind.__name__
    return Extended


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def _seed(run: int, step: int, rank: int) -> int:
    """Different for every step and rank, the same when a run is resumed; vLLM adds the index of each of n answers."""
    return (run * 1_000_003 + step * 10_007 + rank * 104_729) % (1 << 31)
