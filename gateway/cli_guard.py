"""`understudy guard`: the guard service, a test of its checkpoint, and the calibration of its threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli_support import ConfigFile, Json, command_group, note, print_fields, print_json, reported

if TYPE_CHECKING:
    from gateway.config import ScreeningSettings
    from monitors.llama_guard.calibration import Calibration

guard_app = command_group("The guard service: Llama Guard on prompts and answers.")
guard_app.info.no_args_is_help = False


@guard_app.callback(invoke_without_command=True)
@reported
def serve(
    ctx: typer.Context,
    config: ConfigFile = None,
    check: Annotated[bool, typer.Option("--check", help="load the guard, run its self-test, and end")] = False,
) -> None:
    """Serve the guard that understudy.toml names, until SIGTERM or Ctrl-C. Prompts and answers are sent here."""
    if ctx.invoked_subcommand is not None:
        ctx.obj = config
        return
    from gateway.guard.service import check_guard, run_service

    settings, base_dir = _settings(config)
    if check:
        typer.echo(check_guard(settings, base_dir))
    else:
        run_service(settings, base_dir)


@guard_app.command()
@reported
def calibrate(
    *,
    ctx: typer.Context,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="JSONL: messages (or prompt), unsafe, role")],
    fpr: Annotated[float, typer.Option(min=1e-6, max=0.5, help="share of benign texts that may be caught")] = 0.01,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="write a reliability diagram, SVG")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Find threshold and temperature for the guard that understudy.toml names, from labelled texts."""
    from gateway.guard.labelled import margins_of, read_labelled
    from gateway.guard.service import checkpoint, load_parts
    from monitors.llama_guard.calibration import calibrate as fit
    from monitors.llama_guard.calibration import conformal_rank

    settings, base_dir = _settings(config or ctx.obj)
    rows = read_labelled(data)
    conformal_rank(sum(not row.unsafe for row in rows), fpr)  # before minutes of work
    judge, backend = load_parts(settings, checkpoint(settings, base_dir))
    backend.prepare(judge.heads)
    margins = margins_of(judge, backend, rows, settings.max_batch, _progress())
    found = fit(margins, [row.unsafe for row in rows], fpr)
    if plot is not None:
        _write_plot(plot, found)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _settings(config: Path | None) -> tuple[ScreeningSettings, Path]:
    from gateway.config import load_settings

    base_dir = config.resolve().parent if config else Path.cwd()
    return load_settings(config).screening, base_dir


def _progress() -> Callable[[int, int], None]:
    """Says how far it is, about ten times."""
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if (tenth := 10 * done // max(1, total)) > shown:
            shown = tenth
            note(f"judged {done} of {total} prompts")

    return progress


def _write_plot(path: Path, found: Calibration) -> None:
    from adapters.errors import ConfigError
    from monitors.llama_guard.reliability_plot import draw

    try:
        path.write_text(draw(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--plot {path} cannot be written: {error.strerror}") from None


def _show(found: Calibration) -> None:
    low, high = found.fpr_interval
    print_fields({
        "texts": f"{found.benign} benign, {found.unsafe} unsafe",
        "false_positives": f"wanted at most {found.wanted_fpr:.2%}; with 95 % confidence {low:.2%} to {high:.2%}",
        "threshold": f"{found.threshold:.6g} (95 %: {found.threshold_interval.lower:.4g} to "
                     f"{found.threshold_interval.upper:.4g})",
        "recall": f"{found.recall:.1%} (95 %: {found.recall_interval.lower:.1%} to {found.recall_interval.upper:.1%})",
        "temperature": f"{found.temperature:.4g}",
        "ECE": f"{found.ece_after:.4f} with it (cross-fitted), {found.ece_before:.4f} without",
    })  # fmt: skip
    note("put these into [screening]:")
    typer.echo(f"threshold = {found.threshold!r}\ntemperature = {found.temperature!r}")
