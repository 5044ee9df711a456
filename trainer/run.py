"""One `understudy train` from a checked plan to a registered version: train, publish, report; or go on with it."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module

from adapters.errors import UnderstudyError
from adapters.registry import Registry
from trainer import memory, ranks
from trainer.base_checks import Bases
from trainer.config import Algorithm
from trainer.job import Job, Outcome
from trainer.plan import Plan, continued, environment, frozen
from trainer.session import guarded, is_first, training_session, world_size

MODULES: Mapping[Algorithm, str] = {
    "sft": "trainer.sft", "dpo": "trainer.dpo", "kto": "trainer.kto", "reward-model": "trainer.reward_model",
    "grpo": "trainer.grpo", "rloo": "trainer.grpo",
}  # fmt: skip
"""Algorithm → module with run(job) -> Outcome."""

Say = Callable[[str], None]


def train(plan: Plan, registry: Registry, *, resume: bool, say: Say) -> str:
    """Train and publish; returns the version's name ("" on other ranks than the first). Raises UnderstudyError."""
    parent = continued(plan.job.config, registry, plan.job.installation, plan.bases)
    plan = replace(plan, job=replace(plan.job, init_from=parent))
    job = plan.job
    with training_session(job.config.threads), _run_directory(plan, resume=resume) as finished:
        if finished is not None:
            return finished
        with _reported(job), guarded(job.run.path):
            job = _at_its_checkpoint(job)
            if job.resume_from is not None and is_first():
                say(f"going on from step {job.resume_from.name.rpartition('-')[2]}")
            _check_memory(job, say)
            outcome = import_module(MODULES[job.algorithm]).run(job)
            # Publishing loads the base in the first process alone, which compressed-tensors, where it finds a process
            # group, would share between all of them.
            ranks.leave()
            return _publish(job, outcome, registry, plan.bases) if is_first() else ""


@contextlib.contextmanager
def _reported(job: Job) -> Iterator[None]:
    """report.html at the end of a run, also of one that failed: that is when people look."""
    from trainer.report import write_report

    try:
        yield
    finally:
        if is_first():
            with contextlib.suppress(UnderstudyError, OSError):  # a report that cannot be written fails no run
                write_report(job.run.path)


@contextlib.contextmanager
def _run_directory(plan: Plan, *, resume: bool) -> Iterator[str | None]:
    """The run's folder, made or found, and held; yields the version if the run has ended already."""
    job = plan.job
    if world_size() > 1:
        from accelerate import PartialState

        from trainer.model import has_gpu

        PartialState(cpu=not has_gpu())
    with contextlib.ExitStack() as stack:
        if is_first():
            kept = int(job.config.trainer.get("save_total_limit") or 2)
            memory.check_disk(job.run.path, memory.lora_parameters(job.base, job.config.lora), kept)
            stack.enter_context(job.run.locked())
            job.run.start(frozen(plan), environment(), resume=resume)
            job.run.write_json(job.run.data_report, job.dataset.report)
            job.run.newest_checkpoint()  # deletes torn ones before any rank looks
        ranks.barrier()
        yield job.run.read_json(job.run.result)["version"] if job.run.result.exists() else None


def _at_its_checkpoint(job: Job) -> Job:
    """The job with the newest whole checkpoint, and without the rows that were logged after it."""
    checkpoint = job.run.newest_checkpoint()
    if is_first():
        job.run.trim(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    return replace(job, resume_from=checkpoint)


def _publish(job: Job, outcome: Outcome, registry: Registry, bases: Bases) -> str:
    from trainer.publish import publish

    made = publish(job, outcome, registry, bases, actor=actor())
    job.run.write_json(job.run.result, {
        "version": made.name, "digest": made.digest, "step": outcome.step, "marks": dict(outcome.marks),
        "facts": dict(outcome.facts),
    })  # fmt: skip
    return made.name


def _check_memory(job: Job, say: Say) -> None:
    """Says what a GPU run will need, and refuses one that cannot fit."""
    import torch

    if not torch.cuda.is_available():
        return
    from trainer.options import arguments

    options = arguments(job)
    length = getattr(options, "max_length", None) or job.context_length
    shape = memory.shape_of(
        job.base, job.config.lora, options.per_device_train_batch_size, length,
        checkpointing=bool(options.gradient_checkpointing),
    )  # fmt: skip
    per_weight = memory.NF4_BYTES if job.config.quantization == "nf4" else {"float32": 4.0}.get(job.dtype, 2.0)
    needed = memory.estimate(shape, job.algorithm, per_weight)
    if is_first():
        say(str(needed))
    memory.check(needed, float(torch.cuda.mem_get_info()[0]))


def actor() -> str:
    """Who trains, for the history: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # containers run with numbers that have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]
