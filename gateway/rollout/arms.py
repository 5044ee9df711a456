"""Which arms a route has while a rollout is open, and how a snapshot looks without its candidate. Pure.

    [0, w) candidate · [w, 1 − h) stable · [1 − h, 1) holdout (stable)

Several candidates (A/B/n) have a block each, and in it that picture: a ramp moves only w, upwards, so that nobody who
got a candidate is moved back or to another one. A candidate that is dropped, or that no replica holds, leaves its units
to stable: beside the comparison, as a holdout, so that what stable has to compare with stays as it was. The share of an
arm stands in its row of `assignments`: every answer says for ever how likely it was to be a candidate's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
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
    def candidates(self) -> tuple[str, ...]:
        """Those that were not dropped, in order."""
        return tuple(version for version in self.rollout.candidates if version not in self.memory.dropped)

    def part(self, version: str) -> float:
        """A candidate's part of the weight, 0..1: 1 for the only one."""
        candidates = self.rollout.candidates
        return self.plan.parts(len(candidates))[candidates.index(version)]

    @property
    def exposed(self) -> bool:
        """True when the candidate may answer somebody: mirrored prompts, testers, or a share of the units."""
        off = self.memory.hold is not None and self.memory.hold.off
        return self.rollout.open and self.rollout.phase in (Phase.SHADOW, Phase.RAMP) and not off


def share_of(course: Course, version: str) -> float:
    """A candidate's share of the units now, as the row says it: 1 once it is promoted, 0 for one that was dropped."""
    rollout = course.rollout
    if rollout.phase is Phase.PROMOTED:
        return float(version == rollout.candidate)
    return rollout.weight * course.part(version) if version in course.candidates else 0.0


def phase_of(course: Course, version: str) -> Phase:
    """Where a candidate is: one that was dropped is rolled back, and who was not the best is only not promoted."""
    rollout = course.rollout
    if version not in course.candidates:
        return Phase.ROLLED_BACK
    return Phase.ABORTED if rollout.phase is Phase.PROMOTED and version != rollout.candidate else rollout.phase


def intervals(course: Course, absent: Collection[str] = ()) -> list[Interval]:
    """The route's arms, in order, covering [0, 1). `absent`: candidates that no replica holds, ready.

    While none does (its engine restarts), stable serves the candidate's units: an answer is better than an error.
    """
    rollout, top = course.rollout, 1.0 - course.plan.holdout_share
    serving = [version for version in course.candidates if version not in absent]
    weight = rollout.weight if course.exposed and serving else 0.0

    def key(arm: str, version: str, share: float) -> AssignmentKey:
        return AssignmentKey(rollout.route, version, arm, share, rollout.id, rollout.step)

    found, low, sizes = [], 0.0, course.plan.parts(len(rollout.candidates))
    for number, (version, part) in enumerate(zip(rollout.candidates, sizes, strict=True), 1):
        high = top if number == len(sizes) else low + top * part
        edge = low + weight * part
        arm, who = (CANDIDATE, version) if version in serving else (HOLDOUT, rollout.stable)
        found.append(Interval(key(arm, who, weight * part), low, edge))
        found.append(Interval(key(STABLE, rollout.stable, top - weight), edge, high))
        low = high
    found.append(Interval(key(HOLDOUT, rollout.stable, 1.0 - top), top, 1.0))
    return [interval for interval in found if interval.high > interval.low]


def shadow_keys(course: Course) -> dict[str, AssignmentKey]:
    """The mirrored arms by version; none outside the shadow phase. An arm's share is its share of stable's requests."""
    rollout, shadow = course.rollout, course.plan.shadow
    if shadow is None or rollout.phase is not Phase.SHADOW or not course.exposed:
        return {}
    return {
        version: AssignmentKey(
            rollout.route, version, SHADOW, shadow.sample * course.part(version), rollout.id, rollout.step
        )
        for version in course.candidates
    }


def pin_key(course: Course) -> AssignmentKey | None:
    """The arm of pinned units, the first candidate's; None while no candidate may answer anybody."""
    rollout = course.rollout
    if not course.exposed or not course.candidates:
        return None
    return AssignmentKey(rollout.route, course.candidates[0], TESTER, 1.0, rollout.id, 0)


def odds(arm: str, share: float, plan: Plan, part: float = 1.0) -> float | None:
    """ρ: the probability, given the snapshot, that an answer counted in the comparison was a candidate's, of any.

    From the arm's own share, as its row of `assignments` says it; `part`: of a candidate among several. The holdout and
    testers are not compared: None. In the shadow phase candidates answer a sample s of what stable answers:
    ρ = s / (1 + s).
    """
    top = 1.0 - plan.holdout_share
    if arm == SHADOW:
        return share / part / (1.0 + share / part)
    if arm == CANDIDATE:
        rho = share / part / top
    elif arm == STABLE:
        rho = (top - share) / top
    else:
        return None
    return rho if 1e-9 < rho < 1.0 - 1e-9 else None  # with a single arm there is nothing to attribute


def odds_of_one(rho: float, part: float) -> float:
    """From the ρ of all candidates together to that of one of them against stable: its odds are its part of theirs."""
    return part * rho / (part * rho + 1.0 - rho)


def without_candidate(snapshot: Snapshot, route: str, back_to: str, model: str, assignment: int) -> Snapshot:
    """The snapshot with the whole route on `back_to` (engine name `model`): all that a rollback needs.

    Its replicas are those that the snapshot already knows for that version. Nothing is asked of any engine.
    """
    replicas = _replicas(snapshot, route, back_to)

    def changed(state: RouteState) -> RouteState:
        arm = Arm(assignment, STABLE, back_to, model, 0.0, 1.0, replicas)
        return RouteState(state.name, state.salt, (arm,))

    return _with_route(snapshot, route, changed)


def without_one(
    snapshot: Snapshot, route: str, back_to: str, model: str, assignment: int, *, dropped: str
) -> Snapshot:
    """The snapshot with the units of one candidate among several on `back_to`; the others stay where they are."""
    replicas = _replicas(snapshot, route, back_to)

    def instead(arm: Arm) -> Arm:
        if arm.version != dropped:
            return arm
        return Arm(assignment, HOLDOUT, back_to, model, arm.low, arm.high, replicas)

    def changed(state: RouteState) -> RouteState:
        shadows = tuple(shadow for shadow in state.mirrored if shadow.version != dropped)
        return replace(
            state, arms=tuple(instead(arm) for arm in state.arms), testers=(),
            shadow=shadows[0] if shadows else None, rivals=shadows[1:],
        )  # fmt: skip

    return _with_route(snapshot, route, changed)


def _with_route(snapshot: Snapshot, route: str, changed: Callable[[RouteState], RouteState]) -> Snapshot:
    states = tuple(changed(state) if state.name == route else state for state in snapshot.routes)
    return replace(snapshot, routes=states)


def _replicas(snapshot: Snapshot, route: str, version: str) -> tuple[str, ...]:
    entries: list[Arm | PinnedVersion] = [arm for state in snapshot.routes if state.name == route for arm in state.arms]
    found = [entry.replicas for entry in [*entries, *snapshot.pinned, snapshot.base] if entry.version == version]
    return next((replicas for replicas in found if replicas), ())
