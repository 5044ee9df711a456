"""TRL callbacks of every run: metrics.jsonl, a progress bar, and the marker that makes a checkpoint count."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.errors import TrainingError
from trainer.job import Job
from trainer.run_directory import RunDirectory
from trainer.session import is_first


def callbacks(job: Job) -> list[Any]:
    """Progress, metrics and checkpoint markers; on every rank but the first: none that writes."""
    found: list[Any] = [CheckpointMarker(job.run), Divergence()]
    if is_first():
        found.append(MetricsLog(job.run))
        lines = job.quiet or not sys.stderr.isatty()
        found.append(ProgressLines(job.algorithm) if lines else ProgressBar(job.algorithm))
    return found


class CheckpointMarker(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Marks each checkpoint whole once every rank has written its part."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After TRL has saved."""
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if is_first():
            self._run.mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class MetricsLog(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes every number that TRL logs to metrics.jsonl."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """One row a log."""
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if numbers:
            self._run.log(state.global_step, "train", numbers)


class Divergence(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Ends a run whose loss is no number any more."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raises TrainingError."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {state.global_step}: the run diverged; lower trainer.learning_rate"
                )


class ProgressBar(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """A bar on the terminal, with the last loss or reward."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._bar: Any = None
        self._task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Shows it."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[said]}"), console=Console(stderr=True))
        self._task = self._bar.add_task(self._algorithm, total=state.max_steps, completed=state.global_step, said="")
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Moves it."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Says the newest numbers."""
        if self._bar is not None and (said := summary(logs)):
            self._bar.update(self._task, said=said)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves it as it is."""
        self._bar.stop()


class ProgressLines(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """A line on standard error at most every twentieth of the run: for logs, where a bar would be noise."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._said = -1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Says the newest numbers."""
        said = summary(logs)
        part = 20 * state.global_step // max(1, state.max_steps)
        if said and part != self._said:
            self._said = part
            sys.stderr.write(f"{self._algorithm}: step {state.global_step}/{state.max_steps}, {said}\n")


def summary(logs: Any) -> str:
    """The few numbers that tell how a run goes: 'loss 0.412, reward 0.55'."""
    names = {"loss": "loss", "reward": "reward", "rewards/accuracies": "accuracy", "accuracy": "accuracy", "kl": "kl"}
    found = [(said, logs[name]) for name, said in names.items() if name in (logs or {})]
    return ", ".join(f"{said} {float(value):.3f}" for said, value in found)
