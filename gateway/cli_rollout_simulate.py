"""`understudy rollout simulate`: before going live, how long until a plan would catch a harm, and how often it errs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.errors import ConfigError
from gateway.cli_support import ConfigFile, Json, note, print_json, print_table, reported

if TYPE_CHECKING:
    from gateway.rollout.plan import Plan
    from gateway.rollout.simulate_report import Middle, Report, Summary
    from gateway.rollout.simulated_traffic import Traffic


def share(text: str | float) -> float:
    """'1%' or '0.01' → 0.01. Raises ConfigError for anything else."""
    body = str(text).strip()
    try:
        return float(body.removesuffix("%")) / (100 if body.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{text!r} is no share: write 1% or 0.01") from None


@reported
def simulate_command(
    *,
    rps: Annotated[float, typer.Option(help="requests per second of the route")],
    bad_rate: Annotated[str, typer.Option(metavar="SHARE", help="stable's share of bad answers, such as 1%")] = "1%",
    relative_risk: Annotated[float, typer.Option(help="how many times more often the candidate's are bad")] = 1.0,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="a plan; default: the configured one")] = None,
    metric: Annotated[str, typer.Option(help="which bad event: error, truncated, empty, guard, slow_ttft …")] = "error",
    units: Annotated[int, typer.Option(help="users who take turns")] = 20_000,
    satisfaction: Annotated[str, typer.Option(metavar="SHARE", help="share of feedback that is good")] = "80%",
    satisfaction_change: Annotated[str, typer.Option(metavar="SHARE", help="the candidate's, such as -10%")] = "0",
    feedback_rate: Annotated[str, typer.Option(metavar="SHARE", help="share of answers with feedback")] = "5%",
    reward_change: Annotated[float, typer.Option(help="the candidate's, in standard deviations")] = 0.0,
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="rollouts to simulate, of each kind")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same result")] = 0,
    skip_shadow: Annotated[bool, typer.Option("--skip-shadow", help="leave the plan's shadow phase out")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="write an SVG with the distributions")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """How long a plan takes to catch a bad version and to promote a good one, and how often it cries wolf.

    Beside it what the documented examples of Flagger and Argo Rollouts would do with the same traffic. A candidate
    that equals stable is simulated too: what is rolled back there is a false alarm.
    """
    from gateway.rollout.simulated_traffic import Traffic

    rules = _plan(plan, config)
    if skip_shadow:
        rules = rules.model_copy(update={"shadow": None})
    traffic = Traffic(
        rps=rps, units=units, metric=metric, bad_rate=share(bad_rate), relative_risk=relative_risk,
        satisfaction=share(satisfaction), satisfaction_change=share(satisfaction_change),
        feedback_rate=share(feedback_rate), reward_change=reward_change,
    ).check()  # fmt: skip
    found = _simulated(rules, traffic, runs, seed)
    if plot:
        _write_plot(plot, found)
    print_json(found.to_json()) if as_json else _print(found)


def _plan(plan: Path | None, config: Path | None) -> Plan:
    """The named one, else what is configured here, else the shipped one with all of its metrics."""
    from gateway.config import load_settings
    from gateway.rollout.configured import plan_of
    from gateway.rollout.plan import default_plan, load_plan

    if plan is None and config is None and not Path("understudy.toml").exists():
        return default_plan()
    return load_plan(plan) if plan else plan_of(load_settings(config))


def _simulated(rules: Plan, traffic: Traffic, runs: int, seed: int) -> Report:
    from gateway.rollout.simulate_report import kinds, report

    with _progress(runs * len(kinds(traffic))) as advance:
        return report(rules, traffic, runs, seed, advance)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("simulating rollouts", total=total)
        yield lambda: bar.advance(task)


def _write_plot(path: Path, found: Report) -> None:
    from gateway.rollout.simulate_plot import draw

    try:
        path.write_text(draw(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the plot cannot be written to {path}: {error.strerror}") from None
    note(f"plot: {path}")


def _print(found: Report) -> None:
    from gateway.rollout.simulate_report import in_words

    for warning in found.warnings:
        note(f"warning: {warning}")
    candidates = dict.fromkeys(summary.candidate for summary in found.summaries)
    columns = ("rules", "rolled_back", "promoted", "held", "rolled_back_after", "candidate_requests", "bad_ones",
               "promoted_after", "causes")  # fmt: skip
    for candidate in candidates:
        typer.echo(f"{candidate} ({found.summaries[0].runs} rollouts; median / 95th percentile)")
        print_table([_row(s) for s in found.summaries if s.candidate == candidate], columns, False)
        typer.echo("")
    typer.echo(f"The plan {found.plan!r} takes at least {in_words(found.least_seconds)}; seed {found.seed}.")


def _row(summary: Summary) -> dict[str, str]:
    from gateway.rollout.simulate_report import in_words

    def both(middle: Middle, as_time: bool = False) -> str:
        if middle.median is None or middle.p95 is None:
            return ""
        texts = [in_words(value) if as_time else f"{value:.0f}" for value in (middle.median, middle.p95)]
        return " / ".join(texts)

    return {
        "rules": summary.rules,
        "rolled_back": f"{summary.rolled_back:.1%}",
        "promoted": f"{summary.promoted:.1%}",
        "held": f"{summary.held:.1%}",
        "rolled_back_after": both(summary.rollback_seconds, as_time=True),
        "candidate_requests": both(summary.rollback_requests),
        "bad_ones": both(summary.rollback_bad_requests),
        "promoted_after": both(summary.promote_seconds, as_time=True),
        "causes": ", ".join(f"{name} {count}" for name, count in list(summary.causes.items())[:3]),
    }
