"""Legal stage transitions, and the only code that writes a version's stage.

                release (with a reason)
              ┌─────────────────────────┐
              ▼                         │
    candidate ──────────────────▶ quarantined
        │  └────▶ released ────────────┘  │
        └─────────────┴────▶ archived ◀───┘      archived is final

Only a passed gate, or an override that an operator recorded (adapters.gates), lets a candidate become released.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection, or_, select, update

from adapters import tables
from adapters.database import bump
from adapters.errors import Conflict, NotFound
from adapters.gates import require_cleared
from adapters.types import AdapterVersion, Stage

LEGAL: dict[Stage, frozenset[Stage]] = {
    Stage.CANDIDATE: frozenset({Stage.RELEASED, Stage.QUARANTINED, Stage.ARCHIVED}),
    Stage.RELEASED: frozenset({Stage.QUARANTINED, Stage.ARCHIVED}),
    Stage.QUARANTINED: frozenset({Stage.CANDIDATE, Stage.ARCHIVED}),
    Stage.ARCHIVED: frozenset(),
}


def transition(
    connection: Connection, version: AdapterVersion | str, to: Stage, actor: str = "", reason: str = ""
) -> None:
    """Move `version` to stage `to` inside the caller's write transaction, and record who did it and why.

    Raises NotFound, and Conflict when the step is not legal, a release from quarantine has no reason, no gate lets
    the candidate be released, or a version about to be archived is still in use by a route.
    """
    name = version if isinstance(version, str) else version.name
    rows = tables.versions
    found = connection.execute(select(rows.c.stage).where(rows.c.name == name).with_for_update()).scalar()
    if found is None:
        raise NotFound(f"version {name} does not exist: see `understudy adapter list`")
    _check_step(name, Stage(found), to, reason)
    if to is Stage.RELEASED:
        require_cleared(connection, name)
    if to is Stage.ARCHIVED:
        _check_unused(connection, name)
    connection.execute(update(rows).where(rows.c.name == name).values(stage=to.value, reason=reason))
    record(connection, name, to, actor, reason)
    bump(connection, "registry")


def record(connection: Connection, name: str, stage: Stage, actor: str, reason: str) -> None:
    """Append one line to the version's history; for its registration, and by `transition`."""
    event = {"version": name, "at": time.time(), "stage": stage.value, "actor": actor, "reason": reason}
    connection.execute(tables.version_events.insert().values(event))


def _check_step(name: str, found: Stage, to: Stage, reason: str) -> None:
    if found is to:
        raise Conflict(f"version {name} is {to.value} already")
    if to not in LEGAL[found]:
        steps = " or ".join(sorted(stage.value for stage in LEGAL[found])) or "nothing: push a new version"
        raise Conflict(f"version {name} is {found.value} and cannot become {to.value}; it can become {steps}")
    if found is Stage.QUARANTINED and to is Stage.CANDIDATE and not reason.strip():
        raise Conflict(f"version {name} is quarantined: releasing it needs a reason (--reason TEXT)")


def _check_unused(connection: Connection, name: str) -> None:
    routes, rollouts = tables.routes, tables.rollouts
    for open_one in connection.execute(select(rollouts).where(rollouts.c.ended_at.is_(None))):
        if name in (open_one.candidate, *(open_one.rivals or ()), open_one.stable):
            raise Conflict(
                f"version {name} is in rollout {open_one.id} of route {open_one.route}: end the rollout first"
            )
    uses = (routes.c.version == name, routes.c.target == name, routes.c.previous == name)
    row = connection.execute(select(routes).where(or_(*uses)).limit(1)).mappings().first()
    if row is None:
        return
    role = {row["version"]: "is served by", row["target"]: "is about to be served by"}.get(
        name, "was served before and is kept, for a way back, by"
    )
    raise Conflict(f"version {name} {role} route {row['name']}: set the route to another version first")
