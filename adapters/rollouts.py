"""What a rollout is: the phases a candidate goes through, and one row of the state machine.

    preparing ──▶ shadow ──▶ ramp (step by step) ──▶ promoted ──▶ (harm in the bake time) rolled_back
        │            │          │
        └────────────┴──────────┴──▶ rolled_back   the candidate is at fault: quarantined
                                └──▶ aborted       something else is

A rollout is open until it has `ended_at`. A hold keeps it where it is; see gateway.rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """How far a rollout has come."""

    PREPARING = "preparing"        # the candidate is loaded and probed on every replica; no traffic
    SHADOW = "shadow"              # it answers a sample of prompts for evidence; nobody sees it
    RAMP = "ramp"                  # it serves `weight` of the units
    PROMOTED = "promoted"          # ended: it serves the route, and is watched for the bake time
    ROLLED_BACK = "rolled_back"    # ended: stable serves the route, the candidate is quarantined
    ABORTED = "aborted"            # ended without a verdict on the candidate


ENDED = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED})


@dataclass(frozen=True, slots=True)
class Rollout:
    """One progressive delivery, as stored. Changed only by compare-and-swap of `generation`."""

    id: int
    route: str
    candidate: str                 # of several (A/B/n) the first named; once promoted, the best
    stable: str                    # base@<12 hex> where the base serves
    plan: dict[str, Any]           # gateway.rollout.plan
    phase: Phase
    step: int                      # 0 before the ramp, then 1, 2, … of the plan's steps
    weight: float                  # the candidates' share of the units now, 0..1: all of them, dropped ones too
    generation: int
    started_at: float              # seconds since the epoch, as all instants here
    phase_since: float             # since this phase, step or weight
    ended_at: float | None = None
    reason: str = ""               # of the last change
    state: dict[str, Any] = field(default_factory=dict)  # what a controller must not forget; gateway.rollout.memory
    rivals: tuple[str, ...] = ()   # the other candidates (A/B/n), dropped ones too

    @property
    def candidates(self) -> tuple[str, ...]:
        """All of them, dropped ones too, in the order in which they were named (once ended: the promoted one first)."""
        return (self.candidate, *self.rivals)

    def number_of(self, version: str) -> int:
        """What stands for a candidate in `bad_events`: from 1 on, whatever the order. Raises ValueError for others."""
        return sorted(self.candidates).index(version) + 1

    @property
    def open(self) -> bool:
        """True until it has ended."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One change, and the numbers that caused it. `id` is 0 until it is stored."""

    kind: str
    reason: str
    actor: str = "controller"
    numbers: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    id: int = 0
    rollout: int = 0
