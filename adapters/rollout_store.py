"""Rollouts in the database. A row changes only by compare-and-swap, together with the event that says why.

`change_in` works inside the caller's transaction, so that a change of the row, of its route and of the published
snapshot are one: no crash can leave one without the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, desc, func, or_, select, update

from adapters import tables
from adapters.database import Database, bump
from adapters.errors import Conflict, NotFound
from adapters.fleet_store import check_fence
from adapters.gates import require_cleared
from adapters.rollouts import Phase, Rollout, RolloutEvent
from adapters.routes import check_rollout_target

Fence = tuple[str, int] | None     # name and epoch of the lease that allows a write
BREAKER = "breaker"                # the kind of event that a worker writes when its circuit breaker trips
Result = TypeVar("Result")


class RolloutStore:
    """Reads and changes rollouts. Methods raise NotFound, Conflict and DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self, route: str, version: str, base: str, plan: dict[str, Any], *, actor: str, now: float | None = None,
        rivals: Sequence[str] = (),
    ) -> Rollout:
        """Begin to roll `version` out on `route`; `base` is the base's name (base@…), stable where no version serves.

        `rivals`: further candidates of the same rollout. Raises NotFound, and Conflict: another rollout is open, a
        change of version is pending, a version serves already or must not serve, or its gate has neither passed nor
        been overridden.
        """
        now = time.time() if now is None else now
        with self._database.begin() as connection:
            for name in (version, *rivals):
                stable = check_rollout_target(connection, route, name)
                require_cleared(connection, name)
            row = {
                "route": route, "candidate": version, "rivals": list(rivals), "stable": stable or base, "plan": plan,
                "phase": Phase.PREPARING.value, "step": 0, "weight": 0.0, "generation": 0,
                "started_at": now, "phase_since": now, "reason": "started", "state": {"cursor": _ends(connection)},
            }  # fmt: skip
            result = connection.execute(tables.rollouts.insert().values(row).returning(tables.rollouts.c.id))
            made = _rollout({"id": result.scalar_one(), "ended_at": None, **row})
            numbers = {"stable": made.stable, "candidate": version, "plan": plan.get("name", "")}
            numbers |= {"rivals": list(rivals)} if rivals else {}
            begun = RolloutEvent("started", f"{', '.join(made.candidates)} against {made.stable}", actor, numbers)
            _append(connection, made.id, begun, now)
            bump(connection, "registry")
            return made

    def get(self, rollout: int) -> Rollout:
        """One rollout. Raises NotFound."""
        with self._database.read() as connection:
            return _read(connection, rollout)

    def open_on(self, route: str) -> Rollout:
        """The route's open rollout. Raises NotFound."""
        rows = tables.rollouts
        with self._database.read() as connection:
            query = select(rows).where(rows.c.route == route, rows.c.ended_at.is_(None))
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFound(f"route {route} has no open rollout: see `understudy rollout history {route}`")
        return _rollout(row)

    def can_go_back(self, rollout: Rollout) -> bool:
        """True while its promoted candidate serves the route and what stable was is still kept."""
        routes = tables.routes
        with self._database.read() as connection:
            row = connection.execute(select(routes).where(routes.c.name == rollout.route)).mappings().first()
        kept = None if rollout.stable.startswith("base@") else rollout.stable
        serves = row is not None and row["version"] == rollout.candidate and row["previous"] == kept
        return rollout.phase is Phase.PROMOTED and serves

    def newest(self, route: str | None = None, *, limit: int = 100) -> list[Rollout]:
        """The newest rollouts, newest first; of one route where given."""
        rows = tables.rollouts
        query = select(rows).order_by(desc(rows.c.id)).limit(limit)
        if route is not None:
            query = query.where(rows.c.route == route)
        with self._database.read() as connection:
            return [_rollout(row) for row in connection.execute(query).mappings()]

    def active(self, ended_after: float) -> list[Rollout]:
        """Open rollouts, and those that ended since `ended_after`; oldest first."""
        rows = tables.rollouts
        query = select(rows).where(or_(rows.c.ended_at.is_(None), rows.c.ended_at >= ended_after)).order_by(rows.c.id)
        with self._database.read() as connection:
            return [_rollout(row) for row in connection.execute(query).mappings()]

    def events(self, rollout: int, after: int = 0) -> list[RolloutEvent]:
        """What happened, oldest first; only events whose id is above `after`."""
        rows = tables.rollout_events
        query = select(rows).where(rows.c.rollout == rollout, rows.c.id > after).order_by(rows.c.id)
        with self._database.read() as connection:
            return [RolloutEvent(**row) for row in connection.execute(query).mappings()]

    def change(self, rollout: Rollout, event: RolloutEvent, fence: Fence = None, **values: Any) -> Rollout:
        """Set columns of the row as `rollout` has it. Raises Conflict when it changed meanwhile."""
        with self._database.begin() as connection:
            return change_in(connection, rollout, event, fence, **values)

    def remember(self, rollout: Rollout, state: dict[str, Any], fence: Fence = None) -> Rollout:
        """Write the controller's memory, which is no change that an operator could collide with: no new generation.

        Raises Conflict when the row changed since `rollout` was read.
        """
        with self._database.begin() as connection:
            _fenced(connection, fence)
            return _swap(connection, rollout, {"state": state})

    def trips(self, rollout: int) -> list[RolloutEvent]:
        """What the workers' circuit breakers wrote, oldest first."""
        rows = tables.rollout_events
        query = select(rows).where(rows.c.rollout == rollout, rows.c.kind == BREAKER).order_by(rows.c.id).limit(1000)
        with self._database.read() as connection:
            return [RolloutEvent(**row) for row in connection.execute(query).mappings()]

    def within(self, work: Callable[[Connection], Result]) -> Result:
        """Do `work` in one write transaction: for changes that touch more than the row."""
        with self._database.begin() as connection:
            return work(connection)

    def note(self, rollout: Rollout, event: RolloutEvent, now: float) -> None:
        """Append an event that changes nothing."""
        with self._database.begin() as connection:
            _append(connection, rollout.id, event, now)


def _ends(connection: Connection) -> list[int]:
    """The newest ids of responses and feedback: a rollout's evidence comes after them."""
    newest = (select(func.max(table.c.id)).scalar_subquery() for table in (tables.responses, tables.feedback))
    return [value or 0 for value in connection.execute(select(*newest)).one()]


def hold_rows(connection: Connection, rollout: Rollout) -> None:
    """Lock its route, then its row: everybody locks routes, rollouts, versions and revisions in this order."""
    routes, rows = tables.routes.c, tables.rollouts.c
    connection.execute(select(routes.name).where(routes.name == rollout.route).with_for_update())
    connection.execute(select(rows.id).where(rows.id == rollout.id).with_for_update())


def change_in(
    connection: Connection, rollout: Rollout, event: RolloutEvent, fence: Fence = None, **values: Any
) -> Rollout:
    """RolloutStore.change inside the caller's write transaction."""
    _fenced(connection, fence)
    event_at = event.at or time.time()
    changed = _swap(connection, rollout, {**values, "reason": event.reason, "generation": rollout.generation + 1})
    _append(connection, rollout.id, event, event_at)
    bump(connection, "registry")
    return changed


def _swap(connection: Connection, rollout: Rollout, values: dict[str, Any]) -> Rollout:
    rows = tables.rollouts
    same = (rows.c.id == rollout.id, rows.c.generation == rollout.generation)
    if connection.execute(update(rows).where(*same).values(values)).rowcount != 1:
        found = _read(connection, rollout.id)
        raise Conflict(
            f"rollout {rollout.id} of route {rollout.route} changed meanwhile (generation {found.generation}, expected "
            f"{rollout.generation}; now {found.phase.value} at {found.weight:.4g}: {found.reason}): look again"
        )
    return _read(connection, rollout.id)


def _append(connection: Connection, rollout: int, event: RolloutEvent, now: float) -> None:
    values = {
        "rollout": rollout, "at": event.at or now, "kind": event.kind, "actor": event.actor, "reason": event.reason,
        "numbers": dict(event.numbers),
    }  # fmt: skip
    connection.execute(tables.rollout_events.insert().values(values))


def _fenced(connection: Connection, fence: Fence) -> None:
    if fence is not None:
        check_fence(connection, *fence)


def _read(connection: Connection, rollout: int) -> Rollout:
    row = connection.execute(select(tables.rollouts).where(tables.rollouts.c.id == rollout)).mappings().first()
    if row is None:
        raise NotFound(f"rollout {rollout} does not exist: see `understudy rollout history`")
    return _rollout(row)


def _rollout(row: RowMapping | dict[str, Any]) -> Rollout:
    return Rollout(**{**row, "phase": Phase(row["phase"]), "rivals": tuple(row["rivals"] or ())})
