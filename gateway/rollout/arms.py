"""Which arms a route has while a rollout is open, and how a snapshot looks without its candidate. Pure.

    [0, w) candidate · [w, 1 − h) stable · [1 − h, 1) holdout (stable)

A ramp moves only w, upwards: nobody who got the candidate is moved back. The share of an arm stands in its row of
`assignments`, so that every answer says for ever how likely it was to be the candidate's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters.rollouts import Phase, Rollout
from adapters.snapshot import Arm, PinnedVersion, RouteState, Snapshot
from gateway.rollout.memory import Memory
from gateway.rollout.plan import Plan

STABLE, CANDIDATE, HOLDOUT, SHADOW, TESTER = "stable", "candidate", "holdout", "shadow", "tester"


@dataclass(frozen=True, slots=True)
class AssignmentKey:
    """The values of one row of `assignments`."""

    route: str
    version: str
    arm: str
    share: float = 1.0
    rollout: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """Units whose bucket lies in [low, high) belong to this arm."""

    key: AssignmentKey
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Course:
    """An open rollout with its plan and memory read."""

    rollout: Rollout
    plan: Plan
    memory: Memory

    @property
    def exposed(self) -> bool:
        """True when the candidate may answer somebody: mirrored prompts, testers, or a share of the units."""
        off = self.memory.hold is not None and self.memory.hold.off
        return self.rollout.open and self.rollout.phase in (Phase.SHADOW, Phase.RAMP) and not off


def intervals(course: Course, *, available: bool) -> list[Interval]:
    """The route's arms, in order, covering [0, 1). `available`: some replica holds the candidate, ready.

    While none does (its engine restarts), stable serves the candidate's units: an answer is better than an error.
    """
    rollout, plan = course.rollout, course.plan
    weight = rollout.weight if course.exposed and available else 0.0
    top = 1.0 - plan.holdout_share
    parts = [(CANDIDATE, rollout.candidate, 0.0, weight), (STABLE, rollout.stable, weight, top)]
    parts.append((HOLDOUT, rollout.stable, top, 1.0))

    def key(arm: str, version: str, low: float, high: float) -> AssignmentKey:
        return AssignmentKey(rollout.route, version, arm, high - low, rollout.id, rollout.step)

    return [Interval(key(*part), part[2], part[3]) for part in parts if part[3] > part[2]]


def shadow_key(course: Course) -> AssignmentKey | None:
    """The mirrored arm; None outside the shadow phase. Its share is the share of stable's requests."""
    rollout, shadow = course.rollout, course.plan.shadow
    if shadow is None or rollout.phase is not Phase.SHADOW or not course.exposed:
        return None
    return AssignmentKey(rollout.route, rollout.candidate, SHADOW, shadow.sample, rollout.id, rollout.step)


def pin_key(course: Course) -> AssignmentKey | None:
    """The arm of pinned units; None while the candidate may not answer anybody."""
    rollout = course.rollout
    if not course.exposed:
        return None
    return AssignmentKey(rollout.route, rollout.candidate, TESTER, 1.0, rollout.id, 0)


def odds(arm: str, share: float, plan: Plan) -> float | None:
    """ρ: the probability, given the snapshot, that an answer counted in the comparison was the candidate's.

    From the arm's own share, as its row of `assignments` says it. The holdout and testers are not compared: None.
    In the shadow phase the candidate answers a sample s of what stable answers: ρ = s / (1 + s).
    """
    top = 1.0 - plan.holdout_share
    if arm == SHADOW:
        return share / (1.0 + share)
    if arm == CANDIDATE:
        rho = share / top
    elif arm == STABLE:
        rho = (top - share) / top
    else:
        return None
    return rho if 1e-9 < rho < 1.0 - 1e-9 else None  # with a single arm there is nothing to attribute


def without_candidate(snapshot: Snapshot, route: str, back_to: str, model: str, assignment: int) -> Snapshot:
    """The snapshot with the whole route on `back_to` (engine name `model`): all that a rollback needs.

    Its replicas are those that the snapshot already knows for that version. Nothing is asked of any engine.
    """
    replicas = _replicas(snapshot, route, back_to)

    def changed(state: RouteState) -> RouteState:
        if state.name != route:
            return state
        arm = Arm(assignment, STABLE, back_to, model, 0.0, 1.0, replicas)
        return RouteState(state.name, state.salt, (arm,))

    return replace(snapshot, routes=tuple(changed(state) for state in snapshot.routes))


def _replicas(snapshot: Snapshot, route: str, version: str) -> tuple[str, ...]:
    entries: list[Arm | PinnedVersion] = [arm for state in snapshot.routes if state.name == route for arm in state.arms]
    found = [entry.replicas for entry in [*entries, *snapshot.pinned, snapshot.base] if entry.version == version]
    return next((replicas for replicas in found if replicas), ())
