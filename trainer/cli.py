"""The trainer's commands: mounted by name through the entry-point group `understudy.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PORTS = (8080, 8082, 8081)  # gateway, metrics, control: the defaults of understudy.toml


def demo_command(
    leave: Annotated[bool, typer.Option("--exit", help="end after the story instead of serving on")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="write what was measured here, as JSON")] = None,
    seed: Annotated[int, typer.Option("--seed", help="of the training runs and of the load")] = 0,
) -> None:
    """The whole story on a real vLLM on this machine's CPU: train, push, verify, serve, swap under load."""
    from trainer.demo.story import run, scratch_directory

    with scratch_directory() as directory:
        status = run(Path(directory), leave=leave, report_file=report, seed=seed, say=typer.echo, ports=PORTS)
    raise typer.Exit(status)
