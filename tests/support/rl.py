"""RL runs on the demo base, made by hand: a Job, and what its adapter does on held-out prompts. Also a program.

As a program it reads one JSON list per line, [algorithm, folder, sections, step], trains in a child process and answers
with the child's exit code; the child kills itself (SIGKILL) right after `step` (0: never). Libraries are imported
once, before the forks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from adapters.base import read_base, resolve_base
from trainer.config import RunConfig
from trainer.demo import world
from trainer.installation import Installation
from trainer.job import Job
from trainer.run_directory import RunDirectory

HELD_OUT = 300
EXACT: dict[str, Any] = {"name": "exact"}
GOLD: dict[str, Any] = {"name": "exact", "label": "truth", "gold": True}
HELPFUL: dict[str, Any] = {"name": "trainer.demo.gameable:helpfulness"}
TRAINER: dict[str, Any] = {
    "learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_steps": 20, "per_device_train_batch_size": 64, "num_generations": 8,
    "max_completion_length": 16, "beta": 0.02, "seed": 0, "save_steps": 10,
}  # fmt: skip


def make_job(
    algorithm: Any, folder: Path, *, trainer: Any = None, reward: Any = None, rows: Any = None, resume: bool = False,
    init_from: Path | None = None, held_out: int = 100, **sections: Any,
) -> Job:  # fmt: skip
    """A run in `folder`/run on the demo base; `sections` are those of the file."""
    config = RunConfig.model_validate({
        "route": "support", "base": "demo", "output_dir": str(folder / "run"), "data": {"train": ["unused"]},
        "lora": {"r": 8, "lora_alpha": 16}, "trainer": TRAINER | (trainer or {}), "reward": reward or [EXACT, GOLD],
        "init_from": str(init_from or ""), "health": {"every": 10}, "prompt_filter": {"enabled": False}, **sections,
    })  # fmt: skip
    run = RunDirectory(folder / "run")
    run.start({}, {}, resume=resume)
    checkpoint = run.newest_checkpoint()
    if resume:
        run.trim(int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)
    return Job(
        algorithm, config, run, Installation(data_dir=folder), read_base(resolve_base("demo")),
        rows=world.rows(1000, 5) if rows is None else rows, held_out=world.rows(held_out, 6, "held_out"),
        init_from=init_from, resume_from=checkpoint, context_length=256, quiet=True,
    )  # fmt: skip


def train(job: Job) -> Any:
    """The outcome of a run; arithmetic with one thread, as repeatable as it gets."""
    from trainer import grpo
    from trainer.session import training_session

    with training_session(1):
        return grpo.run(job)


def replies(adapter: Path | None, seed: int = 7) -> list[str]:
    """What the adapter (None: the base) says to the held-out prompts, at temperature 1."""
    from trainer.demo.measure import sample
    from trainer.model import load_base
    from trainer.probes import load_adapter
    from trainer.session import reproducible

    with reproducible(1):
        model = load_base("demo") if adapter is None else load_adapter("demo", adapter)
        return sample(model, [e.prompt for e in asked()], seed=seed)


def asked() -> list[world.Example]:
    """The held-out prompts; other ones than a run is watched on."""
    return world.examples(HELD_OUT, 77, "held_out")


def right(said: list[str]) -> list[bool]:
    """Which replies are exactly right."""
    return [world.correct(reply, example.answer) for reply, example in zip(said, asked(), strict=True)]


def better(ours: list[bool], theirs: list[bool]) -> float:
    """p of McNemar's exact test that the first is not better, prompt by prompt."""
    won = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def _child(algorithm: str, folder: str, sections: dict[str, Any], step: int) -> None:
    from trainer.callbacks import MetricsLog

    if step:  # right after the row of this step is written, wherever the checkpoint is then

        class Dying(MetricsLog):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                super().on_log(args, state, control, logs)
                if state.global_step == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        import trainer.callbacks as module

        module.MetricsLog = Dying  # type: ignore[misc]  # the child is this class's only user
    init_from = sections.pop("init_from", None)
    job = make_job(
        algorithm, Path(folder), resume=(Path(folder) / "run" / "run.json").exists(),
        init_from=Path(init_from) if init_from else None, **sections,
    )  # fmt: skip
    print(json.dumps(str(train(job).adapter)), file=sys.stderr)


def main() -> None:
    """Fork a child per line."""
    from trainer.session import no_telemetry

    no_telemetry()
    import trl

    trl.GRPOTrainer, trl.RLOOTrainer  # noqa: B018 - attributes are imported when they are asked for
    import trainer.grpo
    import trainer.rl_trainers  # noqa: F401 - imported before the forks
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _child(*json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
