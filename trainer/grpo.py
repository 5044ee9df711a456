"""GRPO and RLOO: TRL trains, the project's graders reward, the health monitor watches, any vLLM may sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapters.errors import ConfigError, TrainingError
from monitors.rewards.types import Grader
from trainer import prompt_filter
from trainer.completions import starting_policy
from trainer.engine_client import check_engine
from trainer.graders import build_rewards
from trainer.health import HealthMonitor, Row, Watched, say
from trainer.job import Job, Outcome
from trainer.model import load_tokenizer
from trainer.options import arguments
from trainer.policy import load_policy
from trainer.reward_function import RewardFunction, indexed
from trainer.sampling import forked, render, sample
from trainer.session import is_first
from trainer.training_metrics import metrics_of
from trainer.watched_rows import choose_rows

if TYPE_CHECKING:
    from trainer.health_callback import HealthCallback


def run(job: Job) -> Outcome:
    """Train `job.algorithm` ("grpo" or "rloo") and say what to publish.

    Raises ConfigError, TrainingError, GraderError, GraderUnavailable and EngineUnavailable, in one line, and before
    long work wherever that is possible.
    """
    from trainer.health_callback import HealthCallback

    rewards = build_rewards(job)
    options = arguments(job)
    check_options(options)
    if job.config.completions.source == "vllm":
        check_engine(job.config.completions)
    tokenizer = load_tokenizer(job.base.path)
    template = dict(options.chat_template_kwargs or {})
    check_lengths(job, tokenizer, template, options.max_completion_length)
    rows, watched = choose_rows(job.rows, job.held_out, job.config.health.prompts, job.config.seed)
    _check_enough(rows, options)
    with closing(metrics_of(job)) as metrics:
        model, lora = load_policy(job)
        rows = filtered(job, rows, rewards.reward, model=model, tokenizer=tokenizer, options=options)
        seen = Watched(
            watched, rewards.reward, rewards.gold, options.max_completion_length, template,
            "ref" if job.init_from else None,
        )  # fmt: skip
        function = RewardFunction(
            rewards.reward, job.config.health, num_generations=options.num_generations, rows=rows
        )
        monitor = HealthMonitor(seen, job.config.health, job.run, tokenizer, seed=job.config.seed, function=function)
        callback = HealthCallback(monitor, metrics)
        outcome = _train(job, options, callback, rows=rows, model=model, lora=lora, tokenizer=tokenizer)
    return replace(outcome, facts={**outcome.facts, "graders": rewards.prints(), "prompts": len(rows)})


def check_options(options: Any) -> None:
    """Raises ConfigError when checkpoints would fall inside a generation cycle: resuming would not be exact."""
    micro = options.steps_per_generation * options.num_iterations
    cycle = math.lcm(micro, options.gradient_accumulation_steps) // options.gradient_accumulation_steps
    if options.save_steps < 1 or options.save_steps % cycle:
        raise ConfigError(
            f"trainer.save_steps is {options.save_steps:g}: it must be a multiple of {cycle}, the optimizer steps that "
            "share one generation (steps_per_generation, num_iterations), or the run could not be resumed exactly"
        )


def check_lengths(job: Job, tokenizer: Any, template: Mapping[str, Any], answer: int) -> None:
    """Every prompt and its longest answer fit the served context; TRL does not check. Raises TrainingError."""
    for rows, name in ((job.rows, "data.train"), (job.held_out, "data.eval")):
        for number, row in enumerate(rows, 1):
            length = len(render(tokenizer, row["prompt"], template))
            if length + answer > job.context_length:
                raise TrainingError(
                    f"{name}, row {number}: a prompt of {length} tokens and an answer of {answer} "
                    f"(trainer.max_completion_length) do not fit the served context of {job.context_length}"
                )


def filtered(
    job: Job, rows: Sequence[Row], reward: Grader, *, model: Any, tokenizer: Any, options: Any
) -> list[Row]:
    """The rows that the starting policy solves sometimes; decided once a run, then read from prompts.json."""
    settings, file = job.config.prompt_filter, job.run.path / prompt_filter.FILE
    if not settings.enabled:
        return list(rows)
    if job.resume_from is not None and file.exists():
        found = prompt_filter.from_json(job.run.read_json(file))
        return [rows[place] for place in found.kept]
    template = dict(options.chat_template_kwargs or {})
    with _start_sampler(job, model, tokenizer, options) as sampler:
        found = prompt_filter.filter_prompts(
            rows, [render(tokenizer, row["prompt"], template) for row in rows], reward, settings,
            sampler=sampler, seed=job.config.seed, needed=prompts_needed(options),
            progress=_Progress(job, min(len(rows), settings.limit)),
        )  # fmt: skip
    if is_first():
        found.write(job.run.path, job.run.write_json)
        say(str(found))
    kept = [rows[place] for place in found.kept]
    _check_enough(kept, options)
    return kept


def prompts_needed(options: Any) -> int | None:
    """How many different prompts the run will use before it repeats any; None: all there are, for whole epochs."""
    if options.max_steps <= 0:
        return None
    micro = options.max_steps * options.gradient_accumulation_steps
    generations = -(-micro // (options.steps_per_generation * options.num_iterations))
    return int(generations * options.generation_batch_size // options.num_generations)


def _check_enough(rows: Sequence[Row], options: Any) -> None:
    """TRL would train on nothing where the rows do not fill one batch. Raises TrainingError."""
    wanted = options.generation_batch_size // options.num_generations
    if len(rows) < wanted:
        raise TrainingError(
            f"{len(rows)} prompts are left to train on, and one batch takes {wanted}: lower "
            "trainer.per_device_train_batch_size, raise trainer.num_generations, or give data.train more prompts"
        )


@contextmanager
def _start_sampler(job: Job, model: Any, tokenizer: Any, options: Any) -> Iterator[prompt_filter.Sampler]:
    """Answers of the starting policy, from where the run's completions will come."""
    how = {"max_tokens": options.max_completion_length, "temperature": options.temperature, "seed": job.config.seed}
    if job.config.completions.source == "vllm":
        with starting_policy(job) as engine:
            yield lambda prompts, samples: engine.sample(prompts, samples=samples, **how)
        return
    model.to(options.device)
    batch = job.config.health.batch
    yield lambda prompts, samples: sample(model, tokenizer, prompts, samples=samples, batch=batch, **how)


class _Progress:
    """Says every quarter of the filter's work."""

    def __init__(self, job: Job, total: int) -> None:
        self._algorithm, self._total, self._said = job.algorithm, total, 0

    def __call__(self, done: int) -> None:
        if is_first() and 4 * done // self._total > self._said:
            self._said = 4 * done // self._total
            say(f"{done} of {self._total} prompts tried", who=self._algorithm)


def _train(
    job: Job, options: Any, health: HealthCallback, *, rows: Sequence[Row], model: Any, lora: Any, tokenizer: Any
) -> Outcome:
    from datasets import Dataset

    from trainer.callbacks import callbacks
    from trainer.health_callback import save_adapter
    from trainer.rl_trainers import make_trainer
    from trainer.training import train_to_end

    monitor = health.monitor
    with ExitStack() as stack:
        trainer = make_trainer(
            job, options, model=model, reward_funcs=monitor.function, peft_config=lora, processing_class=tokenizer,
            train_dataset=Dataset.from_list(indexed(rows)), callbacks=[health, *callbacks(job)],
        )  # fmt: skip
        if monitor.watched.reference and "ref" not in trainer.model.peft_config:
            add_reference(trainer.model)
        health.attach(trainer)
        if trainer.engine is not None:
            stack.callback(trainer.engine.close)
            trainer.engine.check(trainer)
        if job.resume_from is not None:
            monitor.restore(job.resume_from)
        train_to_end(job, trainer, ended=monitor.ended)
        last = job.run.path / "last"
        save_adapter(trainer, last)
        return monitor.outcome(last, trainer.state.global_step)


def add_reference(model: Any) -> None:
    """Copies the adapter in training to one named "ref", as TRL does for beta > 0: KL is measured at any beta."""
    with forked(0):  # the new adapter draws its weights before they are replaced
        model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
