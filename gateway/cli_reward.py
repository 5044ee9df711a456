"""`understudy reward`: the scoring service, or with --check a test of its graders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli_support import ConfigFile, Json, print_table


def reward_command(
    config: ConfigFile = None,
    check: Annotated[bool, typer.Option("--check", help="test the graders, judges for drift, and end")] = False,
    as_json: Json = False,
) -> None:
    """Serve the graders of `[rewards]`, until SIGTERM or Ctrl-C. The gateway sends samples of its answers here."""
    from gateway.config import load_settings
    from gateway.scoring.service import check_all, production_graders, run_service

    settings = load_settings(config)
    base_dir = config.resolve().parent if config else Path.cwd()
    if not check:
        run_service(settings, base_dir)
        return
    rows = check_all(production_graders(settings, base_dir))
    print_table(rows, ("grader", "result", "detail", "fingerprint"), as_json)
    if any(row["result"] != "ok" for row in rows):
        raise typer.Exit(1)
