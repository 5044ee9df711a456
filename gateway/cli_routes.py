"""`understudy route …`: create, list, show, set, delete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.errors import ConfigError, Conflict, EngineUnavailable
from gateway.cli_support import (
    ConfigFile,
    Context,
    Json,
    actor,
    command_group,
    declare_routes,
    note,
    open_context,
    print_fields,
    print_json,
    print_table,
    reported,
    when,
)

if TYPE_CHECKING:
    from adapters.gates import GateStatus
    from adapters.types import Route

route_app = command_group("Public model names and what they serve.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="lower-case letters and digits with single hyphens between")]
_LEADER_PATIENCE = 5.0  # seconds a controller may take to restart before `set` says that there is none
_POLL = 0.2             # seconds


@route_app.command("list")
@reported
def list_routes(config: ConfigFile = None, as_json: Json = False) -> None:
    """All routes and what they serve."""
    from adapters.gates import gate_statuses

    with open_context(config) as context:
        declare_routes(context)
        routes = context.routes.list()
        gates = gate_statuses(context.database, [route.version for route in routes if route.version])
    rows = [asdict(route) if as_json else _for_people(route) for route in routes]
    for row, route in zip(rows, routes, strict=True):
        row["gate"] = _gate(gates, route, as_json)
    print_table(rows, ("name", "serves", "gate", "target", "previous", "kept_until", "error"), as_json)


@route_app.command()
@reported
def show(name: Name, config: ConfigFile = None, as_json: Json = False) -> None:
    """One route, what the gate said of its version, and the engines that hold its versions."""
    from adapters.gates import gate_statuses

    with open_context(config) as context:
        declare_routes(context)
        route = context.routes.get(name)
        gates = gate_statuses(context.database, [route.version] if route.version else [])
        wanted = {route.version, route.target, route.previous}
        holdings = [held for held in context.fleet.holdings() if held.version in wanted]
    if as_json:
        print_json({**asdict(route), "gate": _gate(gates, route, True), "holdings": holdings})
        return
    said = str(gates[route.version]) if route.version in gates else ""
    print_fields({**_for_people(route), "gate": said, "description": route.description, "generation": route.generation})
    if holdings:
        typer.echo("")
        rows = [{**asdict(held), "engine": held.replica, "state": held.state.value} for held in holdings]
        print_table(rows, ("engine", "version", "state", "error"), False)


@route_app.command()
@reported
def create(
    name: Name, description: Annotated[str, typer.Option(help="shown in listings")] = "", config: ConfigFile = None
) -> None:
    """Add a route. It serves the base until a version is set."""
    with open_context(config) as context:
        if name == context.settings.engine.served_name:
            raise ConfigError(f"{name!r} is the base's own name (engine.served_name): choose another")
        context.routes.create(name, description)
    note(f"route {name} serves the base")


@route_app.command("set")
@reported
def set_version(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="such as support@3f2a9c1b7d20; base = no adapter")],
    wait: Annotated[bool, typer.Option(help="wait until the controller has switched or failed")] = True,
    timeout: Annotated[float, typer.Option(help="longest wait in seconds", min=1)] = 600.0,
    config: ConfigFile = None,
) -> None:
    """Serve VERSION on the route, once it is loaded and probed on every engine that it is placed on."""
    with open_context(config) as context:
        declare_routes(context)
        route = _write(context, name, version)
        if not wait:
            note(f"route {name}: {version} is wanted; the controller switches when it is loaded")
            return
        _Watch(context, route, version).until_done(time.monotonic() + timeout)
    note(f"route {name} serves {version}")


@route_app.command()
@reported
def delete(name: Name, config: ConfigFile = None) -> None:
    """Remove a route that serves nothing; its versions must be archived."""
    with open_context(config) as context:
        if any(route.name == name for route in context.settings.route):
            raise ConfigError(f"route {name} is declared in the configuration file: remove it there first")
        context.routes.delete(name)
    note(f"route {name} is deleted")


def _write(context: Context, name: str, version: str) -> Route:
    from gateway.config import parse_duration

    if version in ("base", context.settings.engine.served_name):
        return context.routes.clear(name, parse_duration(context.settings.rollout.bake))
    return context.routes.set_target(name, version, actor=actor())


class _Watch:
    """Follows one change until the workers serve it. Polls the database, so it needs no access to the controller."""

    def __init__(self, context: Context, route: Route, version: str) -> None:
        self._context = context
        self._route = route
        self._base = route.target is None and route.version is None
        self._version = version
        self._said = ""
        self._leader_seen = time.monotonic()

    def until_done(self, deadline: float) -> None:
        """Raises Conflict when it failed or another change came, EngineUnavailable when nobody works on it."""
        while not self._done():
            if time.monotonic() > deadline:
                raise EngineUnavailable(f"route {self._route.name} has not switched yet: it goes on; see `route show`")
            self._check_leader()
            self._say_holdings()
            time.sleep(_POLL)

    def _done(self) -> bool:
        now = self._context.routes.get(self._route.name)
        if now.error:
            raise Conflict(f"route {now.name} still serves {now.version or 'the base'}: {now.error}")
        wanted = None if self._base else self._version
        if now.version == wanted and now.target is None:
            return self._published(wanted)
        if now.target != wanted and now.generation != self._route.generation:
            raise Conflict(f"route {now.name} was set to {now.target or now.version or 'the base'} meanwhile")
        return False

    def _published(self, wanted: str | None) -> bool:
        """True when the snapshot that every worker serves from says so too."""
        snapshot = self._context.fleet.latest()
        if snapshot is None or snapshot.effective_at > time.time():
            return False
        arms = [arm for route in snapshot.routes if route.name == self._route.name for arm in route.arms]
        return any(arm.version == wanted if wanted else arm.version.startswith("base@") for arm in arms)

    def _check_leader(self) -> None:
        from adapters.fleet_store import CONTROLLER_LEASE

        if self._context.fleet.lease_holder(CONTROLLER_LEASE, time.time()):
            self._leader_seen = time.monotonic()
        elif time.monotonic() - self._leader_seen > _LEADER_PATIENCE:
            raise EngineUnavailable(
                f"no controller is running; {self._version} stays wanted on route {self._route.name}: start "
                "`understudy up` or `understudy controller`"
            )

    def _say_holdings(self) -> None:
        if self._base:
            return
        held = self._context.fleet.holdings(version=self._version)
        text = ", ".join(f"{h.replica} {h.state.value}{f' ({h.error})' if h.error else ''}" for h in held) or "waiting"
        if text != self._said:
            note(text)
            self._said = text


def _gate(gates: Mapping[str, GateStatus], route: Route, full: bool) -> Any:
    """What the gate said of the version that serves; None for the base."""
    found = gates.get(route.version or "")
    return found and (asdict(found) if full else found.verdict.value)


def _for_people(route: Route) -> dict[str, Any]:
    return {
        "name": route.name,
        "serves": route.version or "base",
        "target": route.target,
        "previous": route.previous,
        "kept_until": when(route.bake_until),
        "error": route.error,
    }
