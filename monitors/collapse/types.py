"""What a collapse detector says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Verdicts. Only OK says that it was looked at and nothing was found."""

    OK = "ok"
    COLLAPSE = "collapse"                        # the reward stayed, satisfaction fell: roll back
    QUALITY_REGRESSION = "quality_regression"    # satisfaction fell, and the reward said so: roll back
    FREEZE = "freeze"                            # only the corroborators alarm: go no further, warn
    INCONCLUSIVE = "inconclusive"                # too little feedback, or feedback that cannot be compared

    @property
    def harmful(self) -> bool:
        """True where the version has to go."""
        return self in (Kind.COLLAPSE, Kind.QUALITY_REGRESSION)


class Why(StrEnum):
    """Why a verdict is INCONCLUSIVE."""

    TOO_LITTLE = "too_little"                # feedback, so far
    FEEDBACK_RATE = "feedback_rate"          # other people speak than before, or the same ones oftener
    RATIO_MISMATCH = "ratio_mismatch"        # traffic is not split as configured
    STALE = "stale"                          # nobody has said anything for long


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict, one sentence, and the numbers behind it. `why`: of INCONCLUSIVE only."""

    kind: Kind
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    why: Why | None = None

    @property
    def holds(self) -> bool:
        """True where a ramp must go no further: too little feedback alone is not such a reason."""
        return self.kind is Kind.FREEZE or self.why in (Why.FEEDBACK_RATE, Why.RATIO_MISMATCH)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "kind": self.kind.value, "why": self.why.value if self.why else None}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Verdict:
        """Inverse. Raises KeyError or ValueError for anything else."""
        why = Why(body["why"]) if body.get("why") else None
        return cls(Kind(body["kind"]), body["reason"], body.get("numbers", {}), why)
