"""What was measured, and what is concluded from it: frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What the numbers say about a metric or a step. No data is INCONCLUSIVE, never PASS."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"                # the numbers are impossible: NaN, negative counts, sums that contradict each other


class Decision(StrEnum):
    """What a verdict means for a rollout."""

    PROMOTE = "promote"            # to the next step, from the last one to all traffic
    CONTINUE = "continue"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"  # waiting longer does not help: hold, page, never promote


@dataclass(frozen=True, slots=True)
class ArmSums:
    """One arm's sums over units of a metric, within one step: m_i and d_i are a unit's numerator and denominator.

    For a rate d_i counts the unit's answers and m_i the bad ones; for a mean m_i is the sum of its values. The optional
    x_i is a covariate per unit, known before assignment (CUPED); all four of its sums are given or none.
    """

    units: int                     # units with d_i > 0
    m: float                       # Σ m
    mm: float                      # Σ m²
    d: float                       # Σ d
    dd: float                      # Σ d²
    md: float                      # Σ m·d
    x: float | None = None         # Σ x
    xx: float | None = None        # Σ x²
    xm: float | None = None        # Σ x·m
    xd: float | None = None        # Σ x·d

    @classmethod
    def of(cls, m: Sequence[float], d: Sequence[float], x: Sequence[float] | None = None) -> ArmSums:
        """The sums of per-unit lists of equal length."""
        base = (_dot(m), _dot(m, m), _dot(d), _dot(d, d), _dot(m, d))
        if x is None:
            return cls(len(m), *base)
        return cls(len(m), *base, _dot(x), _dot(x, x), _dot(x, m), _dot(x, d))

    @property
    def has_covariate(self) -> bool:
        """True when the sums of a covariate are given."""
        return None not in (self.x, self.xx, self.xm, self.xd)


def _dot(a: Sequence[float], b: Sequence[float] | None = None) -> float:
    return math.fsum(a) if b is None else math.fsum(p * q for p, q in zip(a, b, strict=True))


@dataclass(frozen=True, slots=True)
class BadEvent:
    """A unit's first bad event: whose it was, and the candidate's share in the snapshot that served it.

    A mirrored request is answered by both, so that events of the shadow phase have the share 0.5.
    """

    candidate: bool
    share: float                   # 0 < share < 1


@dataclass(frozen=True, slots=True)
class Measurements:
    """What is known about a step. Events run over the whole rollout, all else over the step.

    metrics: name → (candidate, stable). pairs: name → differences candidate − stable, one per unit, in order of time.
    """

    elapsed: float                                   # seconds in the step
    candidate_units: int = 0
    stable_units: int = 0
    ratio_counts: tuple[int, ...] = ()               # units that first came during the step, per arm
    ratio_weights: tuple[float, ...] = ()            # the arms' configured shares in the same order
    metrics: Mapping[str, tuple[ArmSums, ArmSums]] = field(default_factory=dict)
    bad_events: Mapping[str, Sequence[BadEvent]] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of one metric, with its numbers. None: does not apply, or could not be computed."""

    metric: str
    test: str                      # attribution, sequential, exact, fixed, paired, ratio_mismatch
    verdict: Verdict
    reason: str                    # one sentence
    effect: float | None = None    # candidate − stable, in the metric's unit
    lower: float | None = None     # interval of the effect
    upper: float | None = None
    tolerated: float | None = None  # the effect that non-inferiority tolerates; signed like `effect`
    log_e: float | None = None     # evidence of harm, natural logarithm
    threshold: float | None = None  # log_e from which on it is a rollback
    p: float | None = None         # of the promotion's test
    n: float = 0.0                 # events, units of both arms, or pairs
    better: float | None = None    # P(candidate is better) given the data, flat prior; shown, decides nothing
    expected_loss: float | None = None  # of choosing the candidate, in the metric's unit; likewise


@dataclass(frozen=True, slots=True)
class Analysis:
    """The judgement of a step: its verdict, one sentence, and every finding behind it."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()
    final: bool = False            # INCONCLUSIVE or ERROR: more time would not change it
    metric: str = ""               # the metric that decided, if one did

    @property
    def decision(self) -> Decision:
        """PASS → PROMOTE, FAIL → ROLLBACK, the rest → CONTINUE, or INCONCLUSIVE when waiting does not help."""
        if self.verdict is Verdict.PASS:
            return Decision.PROMOTE
        if self.verdict is Verdict.FAIL:
            return Decision.ROLLBACK
        return Decision.INCONCLUSIVE if self.final else Decision.CONTINUE

    def to_json(self) -> dict[str, Any]:
        """Plain values for events and listings; infinite bounds become None."""
        body = asdict(self) | {"verdict": self.verdict.value, "decision": self.decision.value}
        body["findings"] = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(finding).items()}
            for finding in self.findings
        ]
        return body
