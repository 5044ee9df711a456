"""`understudy rollout …`: start, watch, steer, and look back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.errors import ConfigError, EngineUnavailable
from gateway.cli_rollout_simulate import simulate_command
from gateway.cli_support import (
    ConfigFile,
    Context,
    Json,
    actor,
    command_group,
    declare_routes,
    note,
    open_context,
    print_json,
    print_table,
    reported,
    when,
)

if TYPE_CHECKING:
    from adapters.rollout_store import RolloutStore
    from adapters.rollouts import Rollout

rollout_app = command_group("Give a new version its traffic step by step, on evidence.")
RouteName = Annotated[str, typer.Argument(metavar="ROUTE", help="a public model name")]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="for the history")]
Which = Annotated[str, typer.Option("--version", metavar="VERSION", help="of several candidates only this one")]
Seen = Annotated[int | None, typer.Option("--generation", metavar="N", help="refuse unless the rollout still has it")]


@rollout_app.command()
@reported
def start(
    route: RouteName,
    versions: Annotated[
        list[str],
        typer.Argument(metavar="VERSION...", help="such as support@3f2a9c1b7d20; several are compared (A/B/n)"),
    ],
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="plan file; default: rollout.plan")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Roll VERSION out on ROUTE. It must have passed its gate, or carry a recorded override.

    Of several VERSIONs each gets its part of every step's weight; one that does harm is dropped alone, and in the end
    the best of those that passed is promoted.
    """
    from adapters.evidence_store import EvidenceStore
    from gateway.rollout import operations
    from gateway.rollout.configured import plan_of

    with open_context(config) as context:
        declare_routes(context)
        rated = EvidenceStore(context.database).rated(route)
        chosen = plan_of(context.settings, plan, rated=rated)
        first, *rivals = versions
        begun = operations.start(
            _store(context), route, first, chosen, base=_base(context), actor=actor(), rivals=rivals
        )
        said = f"{', '.join(versions)}: rolled out by plan {chosen.name!r}; see `rollout status {route}`"
        _say(context, begun, as_json, said)


@rollout_app.command()
@reported
def status(
    route: Annotated[str | None, typer.Argument(metavar="ROUTE", help="only this route")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="a live view, until the rollout ends")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Weights, phases, effects and evidence of the open rollouts (of ROUTE: the newest, open or not)."""
    from gateway.rollout.listing import as_json as listed
    from gateway.rollout.listing import names, where

    with open_context(config) as context:
        declare_routes(context)
        store, incidents = _store(context), context.settings.data_dir / "incidents"
        if route is not None:
            context.routes.get(route)
        if watch:
            _watch(context, store, route)
            return
        found = store.newest(route, limit=1) if route else [r for r in store.newest() if r.open]
        bodies = [listed(rollout, incidents) for rollout in found]
    if as_json:
        print_json(bodies)
    elif not bodies:
        note(f"route {route} has had no rollout" if route else "no rollout is open: see `understudy rollout history`")
    elif route:
        from gateway.cli_rollout_view import render

        render(bodies[0])
    else:
        rows = [
            {**body, "candidate": names(body), "phase": where(body), "weight": f"{body['weight']:.4g}"}
            for body in bodies
        ]
        print_table(rows, ("id", "route", "candidate", "stable", "phase", "weight", "reason"), False)


@rollout_app.command()
@reported
def weight(
    route: RouteName,
    share: Annotated[str, typer.Argument(metavar="SHARE", help="the candidate's share with a percent sign: 10%")],
    *,
    reason: Why = "",
    generation: Seen = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Give the candidate this share of the users now."""
    from gateway.rollout.plan import parse_percent

    try:
        value = parse_percent(share)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _steer(config, "set_weight", route, as_json, value, reason=reason, generation=generation)


def _for_all(name: str, operation: str, text: str) -> None:
    """A command that steers the whole rollout."""

    def command(
        route: RouteName, reason: Why = "", generation: Seen = None, config: ConfigFile = None, as_json: Json = False
    ) -> None:
        _steer(config, operation, route, as_json, reason=reason, generation=generation)

    rollout_app.command(name, help=text)(reported(command))


def _for_one(name: str, operation: str, text: str) -> None:
    """A command that may be for one of several candidates."""

    def command(
        route: RouteName,
        *,
        version: Which = "",
        reason: Why = "",
        generation: Seen = None,
        config: ConfigFile = None,
        as_json: Json = False,
    ) -> None:
        _steer(config, operation, route, as_json, version, reason=reason, generation=generation)

    rollout_app.command(name, help=text)(reported(command))


_for_all("pause", "pause", "Go no further until it is resumed. Harm is acted on all the same.")
_for_all("resume", "resume", "Go on: after a pause, an approval that was waited for, or an inconclusive step.")
_for_one("promote", "promote", "All users to the candidate, whatever steps are left; the history says that they were "
         "skipped. Of several candidates --version says which.")  # fmt: skip
_for_one("rollback", "roll_back", "All users back to the stable version; also after a promotion, while that is still "
         "kept. With --version only one of several candidates is taken back.")  # fmt: skip


@rollout_app.command()
@reported
def history(
    route: Annotated[str | None, typer.Argument(metavar="ROUTE", help="only this route")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="at most so many rollouts")] = 20,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Rollouts with every change, who made it and why, and the reports of rollbacks."""
    from gateway.rollout.listing import as_json as listed
    from gateway.rollout.listing import event_json

    with open_context(config) as context:
        store, incidents = _store(context), context.settings.data_dir / "incidents"
        found = store.newest(route, limit=limit)
        bodies = [
            {**listed(r, incidents), "events": [event_json(event) for event in store.events(r.id)]} for r in found
        ]
    if as_json:
        print_json(bodies)
        return
    rows = [_line(body, event) for body in reversed(bodies) for event in body["events"]]
    print_table(rows, ("rollout", "route", "candidate", "at", "what", "cause", "by", "reason"), False)
    for body in bodies:
        for report in dict.fromkeys(filter(None, [body["incident"], *(c["incident"] for c in body["candidates"])])):
            typer.echo(f"report of rollout {body['id']}: {report}")


def _line(body: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    from gateway.rollout.listing import names

    return {
        "rollout": body["id"], "route": body["route"], "candidate": names(body), "at": when(event["at"]),
        "what": event["kind"], "by": event["actor"], "reason": event["reason"], "cause": event["numbers"].get("cause"),
    }  # fmt: skip


def _steer(config: Path | None, name: str, route: str, as_json: bool, *values: Any, **who: Any) -> None:
    """One operation of gateway.rollout.operations, and what it led to."""
    from gateway.rollout import operations

    with open_context(config) as context:
        changed = getattr(operations, name)(_store(context), route, *values, actor=actor(), **who)
        _say(context, changed, as_json, changed.reason)


def _say(context: Context, rollout: Rollout, as_json: bool, text: str) -> None:
    from adapters.fleet_store import CONTROLLER_LEASE
    from gateway.rollout.listing import as_json as listed

    if as_json:
        print_json(listed(rollout, context.settings.data_dir / "incidents"))
    else:
        note(f"rollout {rollout.id}, generation {rollout.generation}: {text}")
    if context.fleet.lease_holder(CONTROLLER_LEASE, time.time()) is None:
        note("no controller is running: this takes effect once `understudy up` or `understudy controller` runs")


def _base(context: Context) -> str:
    """The base's name, as the controller has published it. Raises EngineUnavailable before the first publication."""
    snapshot = context.fleet.latest()
    if snapshot is None:
        raise EngineUnavailable("no controller has run here yet: start `understudy up` first")
    return snapshot.base.version


def _store(context: Context) -> RolloutStore:
    from adapters.rollout_store import RolloutStore

    return RolloutStore(context.database)


def _watch(context: Context, store: RolloutStore, route: str | None) -> None:
    from gateway.cli_rollout_view import watch

    if route is None:
        routes = [rollout.route for rollout in store.newest() if rollout.open]
        if len(routes) != 1:
            raise ConfigError(f"name the route to watch: {', '.join(routes) or 'no rollout is open'}")
        route = routes[0]
    watch(store, route, context.settings.data_dir / "incidents")


rollout_app.command("simulate")(simulate_command)
