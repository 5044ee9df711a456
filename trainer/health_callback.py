"""Connects the health monitor, and the exported metrics, with any of TRL's trainers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from trainer.health import STATE, HealthMonitor, say
from trainer.ranks import shared
from trainer.session import is_first
from trainer.training_metrics import TrainingMetrics


class HealthCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Looks at the start, every `health.every` steps and at the end; stops a run that collapsed or has learned all.

    Put it before the callback that marks checkpoints whole: its state is part of them. Call `attach` with the trainer
    before `train()`.
    """

    def __init__(self, monitor: HealthMonitor, metrics: TrainingMetrics | None = None) -> None:
        self.monitor = monitor
        self._metrics = metrics
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Which trainer is watched."""
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The look that all others are compared with."""
        if not self.monitor.looks:
            self._look(state.global_step, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The regular look."""
        function = self.monitor.function
        over = bool(function and function.exhausted)
        if state.global_step % self.monitor.settings.every == 0 or state.global_step >= state.max_steps or over:
            self._look(state.global_step, control)
        if over and not control.should_training_stop:
            control.should_training_stop = True
            say(f"stopped at step {state.global_step}: {function.exhausted if function else ''}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Exports what TRL logs."""
        if self._metrics is not None and is_first():
            self._metrics.logged(logs or {})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes the monitor's state into the checkpoint, and drops kept adapters that no checkpoint refers to."""
        if is_first():
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / STATE).write_text(json.dumps(self.monitor.state()), encoding="utf-8")
            self._drop_kept(Path(args.output_dir))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops serving metrics; their file stays."""
        if self._metrics is not None:
            self._metrics.close()

    def _look(self, step: int, control: Any) -> None:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        before = self.monitor.collapse
        verdict = self.monitor.look(model, step)
        best = bool(step) and self.monitor.best_step == step
        status, best = shared((verdict.status, best))
        if best:
            save_adapter(self._trainer, self.monitor.best_folder(step))
        if not is_first():
            control.should_training_stop |= status == "collapsed" and self.monitor.settings.on_collapse == "stop"
            return
        # Past TRL's own log(), which would empty its collected metrics in the middle of a step; and a log is no reason
        # to leave out the one that is due.
        due = control.should_log
        Trainer.log(self._trainer, {f"held_out/{name}": value for name, value in self.monitor.values.items()})
        control.should_log = due
        if self._metrics is not None:
            self._metrics.looked(self.monitor.values)
        if status == "suspect":
            say(f"step {step}: {verdict.reason}")
        if status == "collapsed" and before is None:
            stop = self.monitor.settings.on_collapse == "stop"
            control.should_training_stop |= stop
            say(f"{'stopped' if stop else 'collapsed'} at step {step}: {verdict.reason}")

    def _drop_kept(self, checkpoints: Path) -> None:
        """Best adapters so far stay while a checkpoint may be resumed whose best they are."""
        states = [json.loads(file.read_text(encoding="utf-8")) for file in checkpoints.glob(f"checkpoint-*/{STATE}")]
        needed = {self.monitor.best_step, *(state["best"] for state in states)}
        for folder in self.monitor.best_folder(0).parent.glob("step-*"):
            if int(folder.name.removeprefix("step-")) not in needed:
                shutil.rmtree(folder)


def save_adapter(trainer: Any, folder: Path) -> None:
    """PEFT's files of the adapter in training, whole or not at all; without the reference that TRL keeps beside it.

    Every rank must call it: sharded weights are gathered.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    if is_first():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
    trainer.save_model(str(scratch))
    if is_first():
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (scratch / name).is_file():
                raise FileNotFoundError(f"{scratch / name}: PEFT did not write it")
        shutil.rmtree(scratch / "ref", ignore_errors=True)
        (scratch / "training_args.bin").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
