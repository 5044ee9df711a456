"""Routes: public model names and what they should serve. Every change is one compare-and-swap of `generation`.

An operator writes `target`; the controller, once every placed replica holds it, writes `version`:

    set_target ──▶ target ── commit_target ──▶ version (the old one: previous, until bake_until ── end_bake)
                     └────── fail_target ──▶ error
"""

from __future__ import annotations

import re
import time
from typing import Any

from sqlalchemy import Connection, delete, select, update

from adapters import tables
from adapters.database import Database, bump, insert_new
from adapters.errors import ConfigError, Conflict, NotFound
from adapters.gates import gate_status, override_unless_cleared
from adapters.promotion import transition
from adapters.types import HoldingState, Kind, Route, Stage, split_version

_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_LONGEST_NAME = 180
RESERVED = {"auto": "routing by task type", "base": "answers of the base are marked base@…"}
_UNSERVABLE = {Stage.QUARANTINED: "quarantined", Stage.ARCHIVED: "archived"}


def check_route_name(name: str) -> str:
    """The name itself. Raises ConfigError unless it is lower-case letters and digits with single hyphens between."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name[:80]!r} is not a route name: use lower-case letters and digits with single hyphens between"
        )
    if name in RESERVED:
        raise ConfigError(f"{name!r} is reserved ({RESERVED[name]}): choose another route name")
    return name


def ensure_route(connection: Connection, name: str, description: str = "") -> bool:
    """Create the route unless it exists, inside the caller's transaction. True when it was created."""
    return insert_new(connection, tables.routes, name=check_route_name(name), description=description)


class RouteStore:
    """Creates, reads and changes routes. Methods raise NotFound, Conflict and DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, description: str = "", *, exist_ok: bool = False) -> Route:
        """Add a route; it serves the base until a version is set. With `exist_ok` a new description is written."""
        with self._database.begin() as connection:
            created = ensure_route(connection, name, description)
            if not created and not exist_ok:
                raise Conflict(f"route {name} exists already")
            if not created and description and _locked(connection, name).description != description:
                return _change(connection, name, description=description)
            if created:
                bump(connection, "registry")
            return _locked(connection, name)

    def get(self, name: str) -> Route:
        """One route. Raises NotFound."""
        with self._database.read() as connection:
            return _read(connection, name)

    def list(self) -> list[Route]:
        """All routes by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.routes).order_by(tables.routes.c.name)).mappings()
            return [Route(**row) for row in rows]

    def set_target(
        self, name: str, version: str, expected_generation: int | None = None, *, actor: str = ""
    ) -> Route:
        """Ask for `version` on the route. Asking for what is served already withdraws a pending target.

        A version that no gate has passed is set on the responsibility of `actor`: recorded as an override.
        Raises Conflict when the route changed since `expected_generation`, or the version must not serve it.
        """
        with self._database.begin() as connection:
            route = _locked(connection, name, expected_generation)
            _check_no_rollout(connection, name)
            _check_servable(connection, name, version)
            override_unless_cleared(connection, version, actor)
            target = None if version == route.version else version
            return _change(connection, name, target=target, error="")

    def commit_target(
        self, name: str, bake_seconds: float, now: float, expected_generation: int | None = None
    ) -> Route:
        """The target is held everywhere: serve it, and keep the version before for `bake_seconds`. Releases it.

        A candidate whose gate failed since it was asked for is given up instead: the route's error says so.
        """
        with self._database.begin() as connection:
            route = _locked(connection, name, expected_generation)
            if route.target is None:
                raise Conflict(f"route {name} has no target to switch to")
            if _check_servable(connection, name, route.target) is Stage.CANDIDATE:
                if not gate_status(connection, route.target).cleared:
                    return _change(connection, name, target=None, error=f"{route.target}: its gate failed meanwhile")
                transition(connection, route.target, Stage.RELEASED, actor="controller", reason=f"serves {name}")
            return _change(
                connection, name, version=route.target, target=None, error="",
                previous=route.version, bake_until=now + bake_seconds if route.version else 0.0,
            )

    def fail_target(self, name: str, error: str, expected_generation: int | None = None) -> Route:
        """The target cannot be reached: drop it, keep serving what is served, and say why."""
        with self._database.begin() as connection:
            route = _locked(connection, name, expected_generation)
            if route.target is None:
                raise Conflict(f"route {name} has no target that could fail")
            return _change(connection, name, target=None, error=f"{route.target}: {error}")

    def end_bake(self, name: str, expected_generation: int | None = None) -> Route:
        """Let go of the version that was served before."""
        with self._database.begin() as connection:
            _locked(connection, name, expected_generation)
            return _change(connection, name, previous=None, bake_until=0.0)

    def clear(
        self, name: str, bake_seconds: float = 0.0, now: float | None = None, expected_generation: int | None = None
    ) -> Route:
        """Serve the base, at once: it is always loaded. What was served is kept for `bake_seconds`."""
        with self._database.begin() as connection:
            route = _locked(connection, name, expected_generation)
            _check_no_rollout(connection, name)
            until = (time.time() if now is None else now) + bake_seconds
            kept = {"previous": route.version, "bake_until": until} if route.version and bake_seconds else {}
            cleared = {"version": None, "target": None, "error": "", "previous": None, "bake_until": 0.0}
            return _change(connection, name, **(cleared | kept))

    def delete(self, name: str) -> None:
        """Remove a route that serves nothing and whose versions are all archived and unloaded."""
        with self._database.begin() as connection:
            route = _locked(connection, name)
            _check_deletable(connection, route)
            connection.execute(delete(tables.routes).where(tables.routes.c.name == name))
            bump(connection, "registry")


def _read(connection: Connection, name: str, *, for_update: bool = False) -> Route:
    query = select(tables.routes).where(tables.routes.c.name == name)
    row = connection.execute(query.with_for_update() if for_update else query).mappings().first()
    if row is None:
        raise NotFound(f"route {name} does not exist: see `understudy route list`")
    return Route(**row)


def _locked(connection: Connection, name: str, expected_generation: int | None = None) -> Route:
    """The route, which nobody else can change until this transaction ends."""
    route = _read(connection, name, for_update=True)
    if expected_generation is not None and route.generation != expected_generation:
        seen = f"generation {route.generation}, expected {expected_generation}"
        raise Conflict(f"route {name} changed meanwhile ({seen}): look again")
    return route


def _change(connection: Connection, name: str, **values: Any) -> Route:
    routes = tables.routes
    values["generation"] = routes.c.generation + 1
    connection.execute(update(routes).where(routes.c.name == name).values(values))
    bump(connection, "registry")
    return _read(connection, name)


def _check_servable(connection: Connection, route: str, version: str) -> Stage:
    split_version(version)
    versions = tables.versions
    # Locked, so that it cannot be archived or quarantined before the route that names it is written.
    row = connection.execute(select(versions).where(versions.c.name == version).with_for_update()).mappings().first()
    if row is None:
        raise NotFound(f"version {version} does not exist: see `understudy adapter list --route {route}`")
    if row["route"] != route:
        raise Conflict(f"version {version} was pushed for route {row['route']}: push it with --route {route}")
    if row["kind"] != Kind.ADAPTER:
        raise Conflict(f"version {version} is a {row['kind'].replace('_', ' ')} and cannot serve a route")
    stage = Stage(row["stage"])
    if stage in _UNSERVABLE:
        advice = "release it first, with a reason" if stage is Stage.QUARANTINED else "push a new version"
        why = f" ({row['reason']})" if row["reason"] else ""
        raise Conflict(f"version {version} is {_UNSERVABLE[stage]}{why}: {advice}")
    return stage


def check_rollout_target(connection: Connection, name: str, version: str) -> str | None:
    """What the route serves, locked for a rollout of `version` to begin. Raises Conflict, NotFound."""
    route = _locked(connection, name)
    _check_no_rollout(connection, name)
    _check_servable(connection, name, version)
    if route.target:
        raise Conflict(f"route {name} is about to switch to {route.target}: wait, or withdraw it with `route set`")
    if version == route.version:
        raise Conflict(f"version {version} serves route {name} already")
    return route.version


def serve_in(connection: Connection, name: str, version: str | None, previous: str | None, bake_until: float) -> Route:
    """A rollout's end, in its own transaction: serve `version` (None: the base), keep `previous` until `bake_until`."""
    _locked(connection, name)
    if version is not None and _check_servable(connection, name, version) is Stage.CANDIDATE:
        transition(connection, version, Stage.RELEASED, actor="controller", reason=f"serves {name}")
    return _change(
        connection, name, version=version, target=None, error="", previous=previous, bake_until=bake_until
    )


def _check_no_rollout(connection: Connection, name: str) -> None:
    rows = tables.rollouts
    mine = (rows.c.route == name, rows.c.ended_at.is_(None))
    query = select(rows.c.id, rows.c.candidate, rows.c.rivals, rows.c.phase).where(*mine)
    if row := connection.execute(query).first():
        candidates = ", ".join([row.candidate, *(row.rivals or ())])
        raise Conflict(
            f"route {name} has rollout {row.id} of {candidates} open ({row.phase}): "
            f"end it with `understudy rollout promote {name}` or `understudy rollout rollback {name}` first"
        )


def _check_deletable(connection: Connection, route: Route) -> None:
    _check_no_rollout(connection, route.name)
    for version in (route.version, route.target, route.previous):
        if version:
            raise Conflict(f"route {route.name} still uses {version}: `understudy route set {route.name} base` first")
    versions, holdings = tables.versions, tables.holdings
    own = versions.c.route == route.name
    alive = connection.execute(select(versions.c.name).where(own, versions.c.stage != Stage.ARCHIVED.value).limit(1))
    if name := alive.scalar():
        raise Conflict(f"route {route.name} has version {name}: archive its versions first")
    loaded = select(holdings.c.version, holdings.c.replica).join(versions, versions.c.name == holdings.c.version)
    held = connection.execute(loaded.where(own, holdings.c.state != HoldingState.UNLOADED.value).limit(1)).first()
    if held:
        raise Conflict(f"version {held.version} of route {route.name} is still loaded on {held.replica}: wait for it")

