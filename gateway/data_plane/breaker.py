"""The circuit breaker: failures in a row of a candidate, while the same engine answers for stable, send its units back.

Each worker acts by itself and at once, without database or statistics. What a worker has done it takes back only when
the routing state changes: when a snapshot has another assignment for the arm (another share), or no such arm.
Failures of an engine as a whole say nothing about a version: they are counted for no arm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from adapters.snapshot import Arm, RouteState
from adapters.types import Flag
from gateway.data_plane.exchange import OK, Finished
from monitors.conventions import ArmName

_DOWN: Final = int(Flag.ENGINE_DOWN)
RECENT: Final = 30.0  # seconds within which stable must have been answered well by an engine for it to count as sound
_FALLBACKS: Final = (ArmName.STABLE, ArmName.CONTROL, ArmName.HOLDOUT)  # who takes over, in this order
UNBREAKABLE: Final = frozenset(_FALLBACKS)


@dataclass(frozen=True, slots=True)
class Trip:
    """What happened, for the record."""

    rollout: int
    route: str
    version: str
    assignment: int
    engine: str
    failures: int

    @property
    def reason(self) -> str:
        """One sentence for logs and histories."""
        return f"{self.failures} failures in a row of {self.version} on {self.engine}, which answers for stable"


@dataclass(slots=True)
class Guard:
    """Watches the arms of one route while a rollout is open."""

    route: str
    rollout: int
    limit: int
    tripped: set[int] = field(default_factory=set)  # assignments whose units stable serves
    _streaks: dict[int, int] = field(default_factory=dict)
    _sound: dict[str, float] = field(default_factory=dict)  # engine → when it last answered well for stable

    def observe(self, done: Finished, now: float) -> Trip | None:
        """Count one answer. A Trip when it was the last straw. `now`: monotonic seconds."""
        target, engine = done.exchange.target, done.upstream.name if done.upstream else ""
        if target.arm in UNBREAKABLE:
            if done.outcome is OK:  # most are, so this comes first
                self._sound[engine] = now
            elif done.failed:
                self._sound.pop(engine, None)
            return None
        if done.outcome is OK:
            self._streaks.pop(target.assignment, None)
        elif done.failed and not done.flags & _DOWN and now - self._sound.get(engine, -RECENT) < RECENT:
            streak = self._streaks.get(target.assignment, 0) + 1
            self._streaks[target.assignment] = streak
            if streak >= self.limit and target.assignment not in self.tripped:
                self.tripped.add(target.assignment)
                return Trip(self.rollout, self.route, target.version, target.assignment, engine, streak)
        return None

    def forget(self, current: set[int]) -> None:
        """Assignments that are no longer routed to start anew if they ever come back."""
        self.tripped &= current
        self._streaks = {key: streak for key, streak in self._streaks.items() if key in current}


class Breakers:
    """The guards of a worker, one per open rollout; they outlive snapshots."""

    def __init__(self) -> None:
        self._guards: dict[int, Guard] = {}

    def adopt(self, routes: Iterable[RouteState]) -> None:
        """The routing state is about to change to this."""
        guards = {}
        for route in routes:
            if route.rollout and route.breaker > 0:
                guard = self._guards.get(route.rollout) or Guard(route.name, route.rollout, route.breaker)
                guard.limit = route.breaker
                guard.forget({arm.assignment for arm in route.arms})
                guards[route.rollout] = guard
        self._guards = guards

    def guard(self, route: RouteState) -> Guard | None:
        """The guard of a route's arms; None while no rollout is open."""
        return self._guards.get(route.rollout)

    def serving(self, route: RouteState) -> Callable[[Arm], Arm]:
        """Which arm answers for an arm's units: itself, or, where the breaker has tripped, stable."""
        guard = self._guards.get(route.rollout)
        sound = [arm for name in _FALLBACKS for arm in route.arms if arm.arm == name]
        stable = sound[0] if sound else None
        if guard is None or not guard.tripped or stable is None:
            return lambda arm: arm
        return lambda arm: stable if arm.assignment in guard.tripped else arm
