"""What operators do to rollouts: each one compare-and-swap on what they saw. Used by the commands and the API alike.

The controller sees a changed row at its next look (a tenth of a second while a rollout is open) and does the rest.
`generation`: what the operator saw; Conflict when the row moved on since. None: whatever it is now.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapters.errors import ConfigError, Conflict, NotFound
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Phase, Rollout
from gateway.rollout.changes import Change, carry_out
from gateway.rollout.decide import Act, Action
from gateway.rollout.memory import Hold, HoldKind, Memory
from gateway.rollout.plan import Plan, from_json, to_json


def start(
    store: RolloutStore, route: str, version: str, plan: Plan, *, base: str, actor: str, now: float | None = None,
    rivals: Sequence[str] = (),
) -> Rollout:
    """Begin a rollout; `base` is the base's name (base@…); `rivals`: further candidates.

    Raises ConfigError where the plan does not fit them; NotFound, Conflict: see RolloutStore.start.
    """
    names = (version, *rivals)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"candidate {twice} is named twice")
    plan.parts(len(names))
    return store.start(route, version, base, to_json(plan), actor=actor, now=now, rivals=rivals)


def pause(store: RolloutStore, route: str, **who: Any) -> Rollout:
    """Go no further. Harm is acted on all the same."""

    def action(rollout: Rollout, memory: Memory, now: float, actor: str, reason: str) -> tuple[Action, Memory]:
        if memory.hold is not None and memory.hold.kind is HoldKind.OPERATOR:
            raise Conflict(f"rollout {rollout.id} is paused already: {memory.hold.reason}")
        if memory.hold is not None:
            raise Conflict(f"rollout {rollout.id} is held already: {memory.hold.reason}")
        hold = Hold(HoldKind.OPERATOR, reason or "paused", now)
        return _here(rollout, Act.HOLD, reason or "paused", actor, hold=hold), replace(memory, wanted="")

    return _do(store, route, action, **who)


def resume(store: RolloutStore, route: str, **who: Any) -> Rollout:
    """End a hold: a pause; an approval that was waited for; an inconclusive step begins anew; after harm to the
    stable arm the candidate gets its share back."""

    def action(rollout: Rollout, memory: Memory, now: float, actor: str, reason: str) -> tuple[Action, Memory]:
        hold = memory.hold
        if hold is None:
            raise Conflict(f"rollout {rollout.id} is not paused")
        said = reason or f"resumed ({hold.kind.value}: {hold.reason})"
        if hold.kind is HoldKind.APPROVAL:
            memory = replace(memory, approved=True)
        elif hold.kind is not HoldKind.OPERATOR:
            memory = replace(memory, credited=0.0, recycled=False, crashes={})
        weight = hold.weight if hold.off else rollout.weight
        return _here(rollout, Act.RELEASE, said, actor, weight=weight), memory

    return _do(store, route, action, **who)


def set_weight(store: RolloutStore, route: str, weight: float, **who: Any) -> Rollout:
    """Give the candidate this share of the units, in (0, 1). The step's evidence begins anew."""

    def action(rollout: Rollout, memory: Memory, now: float, actor: str, reason: str) -> tuple[Action, Memory]:
        plan = from_json(rollout.plan)
        top = 1.0 - plan.holdout_share
        if not 0 < weight < top:  # someone has to be left to compare with
            most = f"below {100 * top:.4g}%"
            raise ConfigError(f"a weight is above 0% and {most}: use promote for all traffic, rollback for none")
        if rollout.phase is Phase.PREPARING:
            raise Conflict(f"rollout {rollout.id} is still preparing: the candidate is not loaded everywhere yet")
        if weight == rollout.weight:
            raise Conflict(f"rollout {rollout.id} has this weight already")
        step = max((n for n, s in enumerate(plan.steps, 1) if s.share <= weight), default=1)
        said = f"weight {rollout.weight:.4g} → {weight:.4g} by hand" + (f": {reason}" if reason else "")
        hold = memory.hold if memory.hold is not None and memory.hold.kind is HoldKind.OPERATOR else None
        return Action(Act.MOVE, said, actor=actor, phase=Phase.RAMP, step=step, weight=weight, hold=hold), memory

    return _do(store, route, action, **who)


def promote(store: RolloutStore, route: str, version: str = "", **who: Any) -> Rollout:
    """All traffic to the candidate as soon as every replica holds it, whatever steps are left: that is recorded.

    `version`: which one, where several are left.
    """

    def action(rollout: Rollout, memory: Memory, now: float, actor: str, reason: str) -> tuple[Action, Memory]:
        if rollout.phase is Phase.PREPARING:
            raise Conflict(f"rollout {rollout.id} is still preparing: the candidate is not loaded everywhere yet")
        left = _left(rollout, memory, version)
        if not version and len(left) > 1:
            raise ConfigError(f"rollout {rollout.id} has several candidates: name the version ({', '.join(left)})")
        wanted = replace(
            memory, wanted="promote", wanted_by=actor, wanted_why=reason, wanted_version=version or left[0]
        )
        said = "promotion asked for" + (f" of {version}" if version else "") + (f": {reason}" if reason else "")
        return _here(rollout, Act.RELEASE, said, actor, hold=memory.hold), wanted

    return _do(store, route, action, **who)


def roll_back(store: RolloutStore, route: str, version: str = "", *, cause: str = "operator", **who: Any) -> Rollout:
    """Stable again for everybody; also a version that was promoted, while the one before is still kept.

    `version`: of several candidates only this one; the others go on. `cause`: what it is counted as, one of
    gateway.rollout.report.CAUSES.
    """

    def action(rollout: Rollout, memory: Memory, now: float, actor: str, reason: str) -> tuple[Action, Memory]:
        if version and len(_left(rollout, memory, version)) > 1:
            said = f"{version}: " + (reason or f"rolled back by {actor}")
            drop = _here(rollout, Act.DROP, said, actor, hold=memory.hold)
            return replace(drop, cause=cause, candidate=version), memory
        return Action(Act.ROLL_BACK, reason or f"rolled back by {actor}", cause=cause, actor=actor), memory

    return _do(store, route, action, find=_open_or_promoted, **who)


def _do(
    store: RolloutStore,
    route: str,
    decide: Any,
    *,
    actor: str,
    reason: str = "",
    generation: int | None = None,
    now: float | None = None,
    find: Any = None,
) -> Rollout:
    """Read the row, decide, swap."""
    now = time.time() if now is None else now
    rollout = (find or _open)(store, route, now)
    if generation is not None and rollout.generation != generation:
        raise Conflict(
            f"rollout {rollout.id} changed meanwhile (generation {rollout.generation}, expected {generation}; now "
            f"{rollout.phase.value} at {rollout.weight:.4g}: {rollout.reason}): look again"
        )
    action, memory = decide(rollout, Memory.from_state(rollout.state), now, actor, reason)
    change = Change(rollout, memory, action, now)
    return store.within(lambda connection: carry_out(connection, change))


def _left(rollout: Rollout, memory: Memory, version: str) -> list[str]:
    """The candidates that are left. Raises Conflict when `version` is none of them."""
    left = [name for name in rollout.candidates if name not in memory.dropped]
    if version and (version not in left or (version != rollout.candidate and not rollout.open)):
        raise Conflict(f"{version} is no candidate of rollout {rollout.id} now: {', '.join(left)}")
    return left


def _open(store: RolloutStore, route: str, now: float) -> Rollout:
    return store.open_on(route)


def _open_or_promoted(store: RolloutStore, route: str, now: float) -> Rollout:
    newest = next(iter(store.newest(route, limit=1)), None)
    if newest is not None and (newest.open or store.can_go_back(newest)):
        return newest
    raise NotFound(f"route {route} has no rollout that could be rolled back: see `understudy rollout history {route}`")


def _here(
    rollout: Rollout, act: Act, reason: str, actor: str, *, hold: Hold | None = None, weight: float | None = None
) -> Action:
    share = rollout.weight if weight is None else weight
    return Action(act, reason, actor=actor, phase=rollout.phase, step=rollout.step, weight=share, hold=hold)
