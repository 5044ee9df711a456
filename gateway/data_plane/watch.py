"""What is watched of the answers of one arm: failures (breaker), texts (a sample), and which requests are mirrored."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from adapters.snapshot import Arm, RouteState
from gateway.data_plane.breaker import UNBREAKABLE, Guard
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.sampling import Allowance
from monitors.conventions import ArmName

# What is done with an answer's text, as bits.
MEASURE: Final = 1  # its statistics go into the histograms
STORE: Final = 2  # … and, with the graders' scores, into the database
MIRROR: Final = 4  # the shadow gets the same prompt

STORED_PER_SECOND: Final = 50.0  # answers of one route, over all workers and arms


class Watch:
    """One arm's. `share` of the answers are measured; of an open rollout as many as may be stored, of either arm."""

    __slots__ = ("_allowance", "_share", "guard", "mirror", "rollout")

    def __init__(
        self, share: float, allowance: Allowance, rollout: int, guard: Guard | None, mirror: Mirror | None
    ) -> None:
        self._share = share
        self._allowance = allowance
        self.rollout = rollout
        self.guard = guard
        self.mirror = mirror

    def select(self, now: float) -> int:
        """What to do with the answer to a request that is admitted now (monotonic seconds)."""
        chosen = 0
        if self.rollout:
            if self._allowance.take(now):
                chosen = MEASURE | STORE
        elif random.random() < self._share:
            chosen = MEASURE | STORE if self._allowance.take(now) else MEASURE
        if self.mirror is not None and random.random() < self.mirror.sample:
            chosen |= MIRROR
        return chosen


def watch_arms(
    route: RouteState, share: float, workers: int, guard: Guard | None, mirror: Mirror | None
) -> Callable[[Arm], Watch]:
    """The watches of a route's arms. Arms of a rollout get equal parts of the allowance, or a small one would get none.

    `share`: of answers, outside rollouts; `workers`: how many processes share the allowance.
    """
    names = sorted({arm.arm for arm in route.arms if arm.high > arm.low})
    allowances = {name: Allowance(STORED_PER_SECOND / len(names) / workers) for name in names}

    def watch(arm: Arm) -> Watch:
        mirrored = mirror if arm.arm in UNBREAKABLE and arm.arm != ArmName.HOLDOUT else None
        return Watch(share, allowances[arm.arm], route.rollout, guard, mirrored)

    return watch
