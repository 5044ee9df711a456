"""What rollouts need of the control plane, and where they and their evidence are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Rollout
from gateway.rollout.arms import Course
from gateway.rollout.changes import Change


@dataclass(frozen=True, slots=True)
class Readiness:
    """Can the candidate serve wherever it should? `fault`: no, by its own fault; `obstacle`: no, for another reason."""

    ready: bool = False
    fault: str = ""
    obstacle: str = ""


class Plant(Protocol):
    """What the control plane does for rollouts."""

    def readiness(self, version: str) -> Readiness:
        """Of an open rollout's candidate, now."""

    def boots(self, version: str) -> dict[str, str]:
        """replica → its process, of those that are up and should hold the version."""

    async def commit(self, change: Change) -> Rollout:
        """Carry the change out in one transaction; where it takes traffic away, with the snapshot that does so."""

    async def recycle(self, version: str, reason: str) -> None:
        """Have the replicas restarted that hold the version."""


@dataclass
class RolloutStores:
    """Where rollouts and their evidence are."""

    rollouts: RolloutStore
    evidence: EvidenceStore
    sums: EvidenceSums

    def trips(self, course: Course) -> dict[str, str]:
        """Which candidates a worker's circuit breaker has taken off, and why. Raises DatabaseError."""
        trips = self.rollouts.trips(course.rollout.id)
        if not course.rollout.rivals:
            return {course.rollout.candidate: trips[0].reason} if trips else {}
        arms = self.evidence.arms(course.rollout.id) if trips else {}
        found = [(arms.get(int(trip.numbers.get("assignment") or 0)), trip) for trip in trips]
        return {arm.version: trip.reason for arm, trip in found if arm is not None}
