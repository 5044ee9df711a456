"""`understudy adapter …`: push, list, show, archive, release. Hands on the groups route, key and db."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli_keys import db_app, key_app
from gateway.cli_routes import route_app
from gateway.cli_serve import verify_command
from gateway.cli_support import (
    ConfigFile,
    Json,
    actor,
    command_group,
    note,
    open_context,
    print_fields,
    print_json,
    print_table,
    reported,
    when,
)

if TYPE_CHECKING:
    from adapters.evaluation_store import Evaluation
    from adapters.gates import GateStatus
    from adapters.types import AdapterVersion
    from gateway.cli_support import Context

__all__ = ["adapter_app", "db_app", "key_app", "route_app"]

adapter_app = command_group("Push, list, verify and retire adapter versions.")
adapter_app.command("verify")(reported(verify_command))
Version = Annotated[str, typer.Argument(metavar="VERSION", help="such as support@3f2a9c1b7d20")]


@adapter_app.command()
@reported
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="an adapter as PEFT saves it, safetensors only")],
    route: Annotated[str, typer.Option(help="the route it is for; made if it does not exist")],
    lineage: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="a fact to record; repeatable")] = None,
    config: ConfigFile = None,
) -> None:
    """Check an adapter against the base, store it and register a version. The last line printed is the version."""
    from adapters.base import read_base, resolve_base
    from adapters.types import Stage

    facts = _facts(lineage or [])
    with open_context(config) as context:
        _check_not_served_name(context, route)
        engine = context.settings.engine
        base = read_base(
            resolve_base(engine.base_model), context.settings.data_dir / "cache", _progress("reading the base")
        )
        pushed = context.registry.push(
            directory, route, base=base, max_rank=engine.max_lora_rank, lineage=facts, actor=actor()
        )
    if pushed.stage is Stage.QUARANTINED:
        note(f"this version is quarantined ({pushed.reason}): `understudy adapter release` lifts that")
    if "probes" not in pushed.manifest:
        note("it has no probes.json, so engines cannot be compared with the trainer")
    typer.echo(pushed.name)


@adapter_app.command("list")
@reported
def list_versions(
    route: Annotated[str | None, typer.Option(help="only of this route")] = None,
    stage: Annotated[str | None, typer.Option(help="candidate, released, quarantined or archived")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """All versions, oldest first."""
    from adapters.gates import GateStatus, gate_statuses
    from adapters.types import Stage

    if stage is not None and stage not in list(Stage):
        raise typer.BadParameter(f"{stage!r} is not one of {', '.join(Stage)}", param_hint="--stage")
    with open_context(config) as context:
        versions = context.registry.list(route, Stage(stage) if stage else None)
        gates = gate_statuses(context.database)
    columns = ("version", "stage", "gate", "rank", "bytes", "created", "reason")
    rows = [_summary(version, gates.get(version.name, GateStatus()), as_json) for version in versions]
    print_table(rows, columns, as_json)


@adapter_app.command()
@reported
def show(version: Version, config: ConfigFile = None, as_json: Json = False) -> None:
    """One version: where it comes from, what happened to it, its evaluations and gate, and which engines hold it."""
    from adapters.evaluation_store import EvaluationStore
    from adapters.gates import gate_status

    with open_context(config) as context:
        found = context.registry.get(version)
        gate = gate_status(context.database, version)
        evaluations = [_evaluated(one) for one in EvaluationStore(context.database).newest(version).values()]
        events = context.registry.events(version)
        holdings = context.fleet.holdings(version=version)
    if as_json:
        facts = {"events": events, "evaluations": evaluations, "holdings": holdings}
        print_json({**_summary(found, gate, True), **facts})
        return
    facts = {key: value for key, value in found.lineage.items() if isinstance(value, str | int | float)}
    probes = "yes" if "probes" in found.manifest else "no"
    own = {"digest": found.digest, "base": found.base_digest, "probes": probes}
    by = f", by {gate.actor}" if gate.actor else ""
    judged = {"gate": f"{gate}, {when(gate.at)}{by}" if gate.at else str(gate)}
    print_fields({**_summary(found, gate, False), **judged, **own, **facts})
    typer.echo("")
    print_table([{**event, "at": when(event["at"])} for event in events], ("at", "stage", "actor", "reason"), False)
    typer.echo("")
    if evaluations:
        rows = [{**one, "at": when(one["at"]), "north_star": _star(one["north_star"])} for one in evaluations]
        print_table(rows, ("suite", "at", "source", "north_star"), False)
        typer.echo("")
    if not holdings:
        typer.echo("no engine holds it")
        return
    engines = [{"engine": held.replica, "state": held.state.value, "error": held.error} for held in holdings]
    print_table(engines, ("engine", "state", "error"), False)


@adapter_app.command()
@reported
def archive(
    version: Version, reason: Annotated[str, typer.Option(help="why, for the history")] = "", config: ConfigFile = None
) -> None:
    """Never serve this version again. Its files go once no engine can need them."""
    with open_context(config) as context:
        archived = context.registry.archive(version, actor(), reason)
        deleted = context.registry.delete_artifact_if_unused(archived.digest)
    files = "its files are deleted" if deleted else "its files stay while an engine or another version may need them"
    note(f"{version} is archived; {files}")


@adapter_app.command()
@reported
def release(
    version: Version, reason: Annotated[str, typer.Option(help="why, for the history")], config: ConfigFile = None
) -> None:
    """Lift a quarantine: the version is a candidate again."""
    with open_context(config) as context:
        context.registry.release(version, actor(), reason)
    note(f"{version} is a candidate again")


def _facts(pairs: list[str]) -> dict[str, str]:
    facts = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(facts) != len(pairs):
        raise typer.BadParameter("write KEY=VALUE, every key once", param_hint="--lineage")
    return facts


def _check_not_served_name(context: Context, route: str) -> None:
    from adapters.errors import ConfigError

    if route == context.settings.engine.served_name:
        raise ConfigError(f"{route!r} is the base's own name (engine.served_name): choose another route")


def _evaluated(evaluation: Evaluation) -> dict[str, Any]:
    """What an evaluation found, in short."""
    fields = {name: getattr(evaluation, name) for name in ("suite", "suite_digest", "source", "at")}
    return {**fields, "north_star": evaluation.body.get("north_star")}


def _star(found: dict[str, Any] | None) -> str:
    """'refunds.pass_at_1 0.812 [0.771, 0.847]'."""
    return "{name} {value:.3f} [{lower:.3f}, {upper:.3f}]".format(**found) if found else "no data"


def _summary(version: AdapterVersion, gate: GateStatus, full: bool) -> dict[str, Any]:
    """A version for a listing; with everything for JSON, except the probes, which are long."""
    from dataclasses import asdict

    if full:
        fields = asdict(version)
        manifest = {key: value for key, value in version.manifest.items() if key != "probes"}
        known = {"manifest": manifest, "probes": "probes" in version.manifest, "gate": asdict(gate)}
        return {"version": fields.pop("name"), **fields, **known}
    return {
        "version": version.name,
        "stage": version.stage.value,
        "gate": gate.verdict.value,
        "rank": version.rank,
        "bytes": version.size_bytes,
        "created": when(version.created_at),
        "reason": version.reason,
    }


def _progress(label: str) -> Callable[[int, int], None] | None:
    """Percentages on a terminal's standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show_progress(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{label}: {100 * done // max(total, 1)} %{end}")
        sys.stderr.flush()

    return show_progress
