"""Verdicts of the promotion rules: what lets a version leave `candidate`. Never updated; a version's newest counts.

    none ──▶ failed ──▶ passed            (`understudy gate`, each time anew)
      └────────┴──────▶ overridden        (an operator, with a reason; shown wherever the version is)
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, desc, func, select

from adapters import tables
from adapters.database import Database
from adapters.errors import Conflict

WITHOUT_A_GATE = "set by an operator without a gate"
AGAINST_THE_GATE = "set by an operator although the gate failed"


class GateVerdict(StrEnum):
    """What the newest gate of a version said."""

    PASSED = "passed"
    FAILED = "failed"
    OVERRIDDEN = "overridden"  # an operator took the responsibility
    NONE = "none"              # no gate has looked at it


@dataclass(frozen=True, slots=True)
class GateStatus:
    """The newest gate of one version. `reason`: which rules failed, or why it was overridden."""

    verdict: GateVerdict = GateVerdict.NONE
    reason: str = ""
    at: float = 0.0            # seconds since the epoch
    actor: str = ""
    against: str = ""          # the version that it was compared with

    @property
    def cleared(self) -> bool:
        """True when the version may leave `candidate`."""
        return self.verdict in (GateVerdict.PASSED, GateVerdict.OVERRIDDEN)

    def __str__(self) -> str:
        return self.verdict.value + (f" ({self.reason})" if self.reason else "")


def gate_status(where: Connection | Database, version: str) -> GateStatus:
    """The newest gate of `version`; verdict `none` where there is none. Raises DatabaseError."""
    return gate_statuses(where, [version]).get(version, GateStatus())


def gate_statuses(where: Connection | Database, versions: Iterable[str] | None = None) -> dict[str, GateStatus]:
    """The newest gate of each version that has one (of `versions` where given). Raises DatabaseError."""
    rows = tables.gates
    newest = select(func.max(rows.c.id)).group_by(rows.c.version)
    if versions is not None:
        newest = newest.where(rows.c.version.in_(list(versions)))
    query = select(rows).where(rows.c.id.in_(newest))
    if isinstance(where, Database):
        with where.read() as connection:
            found = connection.execute(query).all()
    else:
        found = where.execute(query).all()
    return {
        row.version: GateStatus(GateVerdict(row.verdict), row.reason, row.at, row.actor, row.against) for row in found
    }


def gate_history(database: Database, version: str) -> list[dict[str, Any]]:
    """Every gate of a version, newest first: dicts with id, version, against, verdict, actor, reason, at, body."""
    query = select(tables.gates).where(tables.gates.c.version == version).order_by(desc(tables.gates.c.id))
    with database.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def record_gate(
    connection: Connection,
    version: str,
    verdict: GateVerdict,
    *,
    reason: str = "",
    actor: str = "",
    against: str = "",
    body: dict[str, Any] | None = None,
) -> GateStatus:
    """Append a verdict inside the caller's write transaction. Raises Conflict for an override without a reason."""
    if verdict is GateVerdict.OVERRIDDEN and not reason.strip():
        raise Conflict(f"an override of the gate of {version} needs a reason (--override TEXT)")
    status = GateStatus(verdict, reason, time.time(), actor, against)
    row = {"version": version, "against": against, "verdict": verdict.value, "actor": actor, "reason": reason}
    connection.execute(tables.gates.insert().values(**row, at=status.at, body=body or {}))
    return status


def override_unless_cleared(connection: Connection, version: str, actor: str) -> GateStatus:
    """An operator sets the version by hand: where no gate has passed it, that is recorded as an override of theirs."""
    status = gate_status(connection, version)
    if status.cleared:
        return status
    reason = AGAINST_THE_GATE if status.verdict is GateVerdict.FAILED else WITHOUT_A_GATE
    return record_gate(connection, version, GateVerdict.OVERRIDDEN, reason=reason, actor=actor, against=status.against)


def require_cleared(connection: Connection | Database, version: str) -> GateStatus:
    """The status, if it lets the version leave `candidate`. Raises Conflict that says what to do."""
    status = gate_status(connection, version)
    if status.cleared:
        return status
    if status.verdict is GateVerdict.FAILED:
        raise Conflict(
            f"version {version} failed its gate: {status.reason}; "
            f"override it with `understudy gate {version} --override REASON`, or push a better one"
        )
    raise Conflict(
        f"no gate has passed version {version}: run `understudy eval {version} --suite FILE`, "
        f"then `understudy gate {version}` (or override it with --override REASON)"
    )
