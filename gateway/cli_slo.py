"""`understudy slo …`: objectives as Prometheus rules, as a table of what their alerts can see, and as OpenSLO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli_support import ConfigFile, Json, command_group, note, print_json, print_table, reported

if TYPE_CHECKING:
    from gateway.config import Settings
    from monitors.slo import Slo

slo_app = command_group("Service level objectives: Prometheus rules, and what their alerts can see.")

OpenSlo = Annotated[
    list[Path] | None, typer.Option("--openslo", metavar="FILE", help="OpenSLO v1 file(s); without -c: only these")
]
_COLUMNS = ("slo", "severity", "windows", "factor", "fires_above", "all_bad", "half_bad", "events_per_hour")


@slo_app.command()
@reported
def rules(
    *,
    config: ConfigFile = None,
    openslo: OpenSlo = None,
    scale: Annotated[
        float, typer.Option(min=1.0, max=1000.0, help="divide every window by this: a rehearsal, not for production")
    ] = 1.0,
    runbook: Annotated[str, typer.Option(metavar="URL", help="where your copy of docs/slo.md is")] = "docs/slo.md",
) -> None:
    """Prometheus recording and alert rules on standard output: for `promtool check rules`, then for rule_files."""
    from monitors.rules import render

    typer.echo(render(_objectives(config, openslo), scale=scale, runbook=runbook), nl=False)


@slo_app.command("list")
@reported
def list_all(*, config: ConfigFile = None, openslo: OpenSlo = None, as_json: Json = False) -> None:
    """Objectives and their alerts: what share of bad ones fires, how soon, and how many events that needs."""
    slos = _objectives(config, openslo)
    if as_json:
        print_json([_described(slo) for slo in slos])
        return
    print_table([row for slo in slos for row in _rows(slo)], _COLUMNS, as_json)
    for slo in slos:
        for reason in slo.alerting.left_out:
            note(f"{slo.id}: {reason}")


@slo_app.command("openslo")
@reported
def export(config: ConfigFile = None) -> None:
    """The configured objectives as OpenSLO v1 on standard output."""
    from monitors.openslo_export import to_yaml

    typer.echo(to_yaml(_objectives(config, None)), nl=False)


def _objectives(config: Path | None, openslo: list[Path] | None) -> list[Slo]:
    """Of the configuration, and of the OpenSLO files. Raises ConfigError: none, or two of one name."""
    from adapters.errors import ConfigError
    from gateway.config import load_settings
    from monitors.openslo import read_openslo
    from monitors.slo import check_distinct

    found: list[Slo] = []
    for path in openslo or ():
        loaded, ignored = read_openslo(path)
        found += loaded
        for line in ignored:
            note(f"{path}: {line}")
    if config is not None or not openslo:
        settings = load_settings(config)
        found = [one.slo() for one in settings.slo] + found
        for line in _doubts(settings):
            note(line)
    if not found:
        raise ConfigError("there is no [[slo]]: `understudy init` writes a file with examples")
    check_distinct(found)
    return found


def _doubts(settings: Settings) -> Iterator[str]:
    """Objectives that nothing here will measure: their only alert will be that there are no data."""
    for one in settings.slo:
        graded = one.sli == "reward" or (one.sli == "divergence" and one.source == "scores")
        if graded and not settings.rewards.scoring_url:
            yield f"{one.name}: nothing is graded until there is a [[rewards.grader]]"
        if one.sli in ("unsafe_rate", "over_refusal") and settings.screening.mode == "off":
            yield f'{one.name}: nothing is screened while screening.mode is "off"'


def _described(slo: Slo) -> dict[str, Any]:
    return {
        "id": slo.id, "name": slo.name, "service": slo.service, "route": slo.route, "sli": slo.sli,
        "objective": slo.objective, "window": slo.period, "action": slo.action.value, "no_data": slo.no_data,
        "scaled": slo.alerting.scaled, "alerts": list(_alerts(slo)), "left_out": list(slo.alerting.left_out),
    }  # fmt: skip


def _alerts(slo: Slo) -> Iterator[dict[str, Any]]:
    """One per pair of windows; seconds until it fires are null where it never does."""
    from math import isfinite

    for burn in slo.alerting.burns:
        window = burn.window
        soon, later = (burn.seconds_to_fire(bad) for bad in (1.0, 0.5))
        yield {
            "severity": window.severity.value, "long_seconds": window.long, "short_seconds": window.short,
            "factor": burn.factor, "fires_above": burn.ratio,
            "events_per_hour": burn.events_per_hour if slo.counted else None,
            "seconds_when_all_are_bad": soon, "seconds_when_half_are_bad": later if isfinite(later) else None,
        }  # fmt: skip


def _rows(slo: Slo) -> Iterator[dict[str, Any]]:
    from monitors.burnrate import format_duration

    for alert in _alerts(slo):
        half = alert["seconds_when_half_are_bad"]
        yield {
            "slo": f"{slo.id} {100 * slo.objective:g}%",
            "severity": alert["severity"],
            "windows": f"{format_duration(alert['long_seconds'])} and {format_duration(alert['short_seconds'])}",
            "factor": f"{alert['factor']:.3g}",
            "fires_above": f"{100 * alert['fires_above']:.3g}%",
            "all_bad": _about(alert["seconds_when_all_are_bad"]),
            "half_bad": "never" if half is None else _about(half),
            "events_per_hour": f"{alert['events_per_hour']:.3g}" if slo.counted else "",
        }


def _about(seconds: float) -> str:
    """To the second, or to the minute where it is more than an hour."""
    from monitors.burnrate import format_duration

    return format_duration(60 * round(seconds / 60) if seconds >= 3600 else max(1, round(seconds)))
