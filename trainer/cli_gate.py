"""`understudy gate`: the promotion rules over stored evaluations. Exit status 3 when a rule does not pass."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.database import Database
    from adapters.gates import GateStatus
    from adapters.registry import Registry
    from trainer.gating.findings import Gate
    from trainer.gating.rules import PromotionRules
    from trainer.installation import Installation

FAILED = 3
_COLOURS = {"pass": "green", "fail": "red", "no data": "yellow"}


def gate_command(  # noqa: PLR0917 - the options of a command
    version: Annotated[str, typer.Argument(metavar="VERSION", help="such as support@3f2a9c1b7d20")],
    against: Annotated[str, typer.Option(metavar="VERSION", help="compare with; default: what its route serves")] = "",
    rules_file: Annotated[Path | None, typer.Option("--rules", metavar="FILE", help="promotion rules, TOML")] = None,
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="let it through all the same; recorded with your name")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="understudy.toml")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """May users meet VERSION? Prints each promotion rule with its numbers; only a pass or an override lets it serve."""
    from adapters.errors import ConfigError
    from trainer.gating.rules import load_rules
    from trainer.installation import load_installation, open_database_of

    if override is not None and not override.strip():
        raise ConfigError("--override needs a reason: it is shown wherever the version is")
    rules, installation = load_rules(rules_file), load_installation(config)
    with open_database_of(installation) as database:
        gate, status = _run(installation, database, rules, version, against, override)
    if as_json:
        findings = [asdict(one) for one in gate.findings]
        facts = {"version": version, "passed": gate.passed, **asdict(status), "rules": findings}
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(version, gate, status)
    if not status.cleared:
        raise typer.Exit(FAILED)


def _run(  # noqa: PLR0917 - one caller, and each is what its name says
    installation: Installation, database: Database, rules: PromotionRules, version: str, against: str,
    override: str | None,
) -> tuple[Gate, GateStatus]:  # fmt: skip
    """Judge and record. An override is recorded beside the verdict that it overrides."""
    from adapters.artifacts import ArtifactStore
    from adapters.errors import Conflict
    from adapters.evaluation_store import EvaluationStore
    from adapters.gates import GateVerdict, record_gate
    from adapters.registry import Registry
    from adapters.types import Kind
    from trainer.gating.judge import Facts, judge

    registry = Registry(database, ArtifactStore(installation.artifacts, installation.data_dir))
    found = registry.get(version)
    if found.kind is not Kind.ADAPTER:
        raise Conflict(f"{version} is a {found.kind.value.replace('_', ' ')}: it never meets users")
    stable = _against(installation, database, registry, found.route, against)
    if stable == version:
        raise Conflict(f"{version} is what route {found.route} serves: name another version with --against")
    store = EvaluationStore(database)
    facts = Facts(found, stable, store.newest(version), store.newest(stable), time.time())
    gate = judge(rules, facts)
    body = {"rules": [asdict(one) for one in gate.findings], "thresholds": rules.model_dump(mode="json")}
    verdict = GateVerdict.PASSED if gate.passed else GateVerdict.FAILED
    actor = _actor()
    with database.begin() as connection:
        status = record_gate(
            connection, version, verdict, reason=gate.reason, actor=actor, against=stable, body=body
        )
        if override is not None and not gate.passed:
            status = record_gate(
                connection, version, GateVerdict.OVERRIDDEN, reason=override, actor=actor, against=stable, body=body
            )
    return gate, status


def _against(installation: Installation, database: Database, registry: Registry, route: str, given: str) -> str:
    """The version to compare with: the given one, else what the route serves, else the base."""
    from adapters.routes import RouteStore
    from trainer.cli_eval import resolve_version

    served = given or RouteStore(database).get(route).version or "base"
    return resolve_version(installation, registry, served)[0]


def _print(version: str, gate: Gate, status: GateStatus) -> None:
    from rich.markup import escape

    from trainer.evaluation.show import terminal

    console = terminal()
    for one in gate.findings:  # a line each, as wide as it must be: rules are read one by one
        colour = _COLOURS[one.verdict.value]
        console.print(f"[{colour}]{one.verdict.value:7}[/] {escape(f'{one.rule}: {one.says}')}", soft_wrap=True)
    said = escape(f": {status.reason}") if status.verdict.value == "overridden" else ""
    console.print(f"{version} against {status.against}: gate {status.verdict.value}{said}", soft_wrap=True)


def _actor() -> str:
    """Who runs this command, for the history: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # containers run with numbers that have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]
