"""`understudy train ALGORITHM -c FILE`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class AlgorithmName(StrEnum):
    """The algorithms, as the command line knows them."""

    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    REWARD_MODEL = "reward-model"
    GRPO = "grpo"
    RLOO = "rloo"


def train_command(
    algorithm: Annotated[AlgorithmName, typer.Argument(metavar="ALGORITHM", help=", ".join(AlgorithmName))],
    *,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="the run's file (docs/training.md)")],
    registry: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="understudy.toml to register in; default: the one in this folder"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in output_dir, if there is one")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only show masked examples and the data report; nothing is written")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: print the data report as JSON")] = False,
) -> None:
    """Train an adapter and register it. The last line printed is the version."""
    from trainer.config import ALGORITHMS
    from trainer.installation import open_registry
    from trainer.plan import plan_run
    from trainer.session import is_first

    chosen = next(name for name in ALGORITHMS if name == algorithm.value)
    plan = plan_run(chosen, config, registry)
    if dry_run:
        from trainer.dry_run import show

        show(plan, as_json=as_json)
        return
    if is_first():
        from trainer.data_report import lines

        typer.echo("\n".join(lines(plan.job.dataset.report)), err=True)
    from trainer.run import train

    with open_registry(plan.job.installation) as opened:
        name = train(plan, opened, resume=resume, say=lambda text: typer.echo(text, err=True))
    if is_first():
        typer.echo(name)
