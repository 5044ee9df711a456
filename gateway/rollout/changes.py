"""Changes of a rollout as one transaction each: the row, its event, the route, the stage of the candidate.

Operators' commands and the controller carry out the same changes, inside a write transaction of their own. All of
them raise Conflict when the row changed since it was read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from adapters.errors import Conflict, NotFound
from adapters.promotion import transition
from adapters.rollout_store import Fence, change_in, hold_rows
from adapters.rollouts import Phase, Rollout, RolloutEvent
from adapters.routes import serve_in
from adapters.types import Stage
from gateway.rollout.decide import Act, Action
from gateway.rollout.memory import Memory

log = logging.getLogger("understudy.rollout")

_KINDS = {
    Act.MOVE: "moved", Act.HOLD: "held", Act.RELEASE: "released", Act.RECYCLE: "recycled", Act.PROMOTE: "promoted",
    Act.ROLL_BACK: "rolled_back", Act.ABORT: "aborted", Act.DROP: "dropped",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """An action on a rollout as it was read. `now` in seconds since the epoch, `bake` in seconds."""

    rollout: Rollout
    memory: Memory
    action: Action
    now: float
    bake: float = 0.0
    fence: Fence = None


def carry_out(connection: Connection, change: Change) -> Rollout:
    """Do it, in the caller's write transaction; the row as it is then. Raises Conflict, NotFound."""
    hold_rows(connection, change.rollout)
    known = {Act.PROMOTE: _promote, Act.ROLL_BACK: _roll_back, Act.ABORT: _abort, Act.DROP: _drop}
    return known.get(change.action.act, _move)(connection, change)


def _move(connection: Connection, change: Change) -> Rollout:
    """To another phase, step or weight; to a hold, or out of one. What was credited to the step before is gone."""
    rollout, action, now = change.rollout, change.action, change.now
    phase = action.phase or rollout.phase
    same = (phase, action.step, action.weight) == (rollout.phase, rollout.step, rollout.weight)
    memory = replace(change.memory, hold=action.hold)
    if not same:
        memory = replace(memory, credited=0.0, approved=False, crashes={})
    if phase in (Phase.SHADOW, Phase.RAMP) and not memory.exposed_at:
        memory = replace(memory, exposed_at=now)
    place: dict[str, Any] = {"phase": phase.value, "step": action.step, "weight": action.weight}
    since = rollout.phase_since if same else now
    event = _event(change, {**place, **action.numbers})
    return change_in(connection, rollout, event, change.fence, **place, phase_since=since, state=memory.to_state())


def _drop(connection: Connection, change: Change) -> Rollout:
    """One candidate of several is quarantined; nothing changes for the others."""
    action, version = change.action, change.action.candidate
    reason = action.reason.removeprefix(f"{version}: ")
    why = {"reason": reason, "cause": action.cause, "at": change.now, "by": action.actor}
    memory = replace(change.memory, dropped={**change.memory.dropped, version: why}, hold=action.hold)
    if memory.wanted_version == version:
        memory = replace(memory, wanted="", wanted_version="")
    event = _event(change, {"candidate": version, "cause": action.cause, **action.numbers})
    changed = change_in(connection, change.rollout, event, change.fence, state=memory.to_state())
    _quarantine(connection, change, version)
    return changed


def _promote(connection: Connection, change: Change) -> Rollout:
    """The candidate, of several the best, serves the route; the version before stays loaded for the bake time."""
    rollout = change.rollout
    best = change.action.candidate or rollout.candidate
    serve_in(connection, rollout.route, best, _adapter(rollout.stable), change.now + change.bake)
    memory = replace(change.memory, hold=None, wanted="")
    return _end(connection, replace(change, memory=memory), Phase.PROMOTED, 1.0, **_first(rollout, best))


def _roll_back(connection: Connection, change: Change) -> Rollout:
    """Stable serves the route, also where the candidate had been promoted; candidates that served are quarantined."""
    rollout = change.rollout
    if rollout.phase is Phase.PROMOTED:
        serve_in(connection, rollout.route, _adapter(rollout.stable), None, 0.0)
    left = [version for version in rollout.candidates if version not in change.memory.dropped]
    if rollout.phase is Phase.PROMOTED or not left:
        left = [rollout.candidate]
    ended = _end(connection, change, Phase.ROLLED_BACK, 0.0, **_first(rollout, left[0]))
    for version in left:
        _quarantine(connection, change, version)
    return ended


def _first(rollout: Rollout, version: str) -> dict[str, Any]:
    """The columns that make this one the rollout's candidate, and the others its rivals."""
    return {"candidate": version, "rivals": [other for other in rollout.candidates if other != version]}


def _quarantine(connection: Connection, change: Change, version: str) -> None:
    try:
        reason = f"rollout {change.rollout.id}: {change.action.reason}"
        transition(connection, version, Stage.QUARANTINED, actor=change.action.actor, reason=reason)
    except (Conflict, NotFound) as already:  # quarantined by what it did to an engine, or archived
        log.info("%s", already)


def _abort(connection: Connection, change: Change) -> Rollout:
    """End it without a verdict on the candidate."""
    return _end(connection, change, Phase.ABORTED, 0.0)


def _end(connection: Connection, change: Change, phase: Phase, weight: float, **more: Any) -> Rollout:
    rollout, action = change.rollout, change.action
    numbers = {
        "from": {"phase": rollout.phase.value, "step": rollout.step, "weight": rollout.weight},
        "cause": action.cause,
        "seconds": change.now - rollout.started_at,
        **action.numbers,
    }
    values: dict[str, Any] = {"phase": phase.value, "weight": weight, "phase_since": change.now, "ended_at": change.now}
    values["state"] = replace(change.memory, cause=action.cause).to_state()
    if rollout.rivals:
        numbers["candidate"] = more.get("candidate", rollout.candidate)
    return change_in(connection, rollout, _event(change, numbers), change.fence, **values, **more)


def _event(change: Change, numbers: dict[str, Any]) -> RolloutEvent:
    action = change.action
    return RolloutEvent(_KINDS[action.act], action.reason, action.actor, numbers, change.now)


def _adapter(version: str) -> str | None:
    """None for the base."""
    return None if version.startswith("base@") else version
