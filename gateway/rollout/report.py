"""What the controller says about rollouts as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.rollouts import Phase
from monitors.conventions import (
    RATIO_MISMATCH,
    ROLLBACKS,
    ROLLOUT_EFFECT,
    ROLLOUT_EVALUE,
    ROLLOUT_PHASE,
    ROLLOUT_WEIGHT,
)
from monitors.shared_values import SharedValues

if TYPE_CHECKING:
    from gateway.rollout.watching import Watched

# What takes a version back, beside the metrics of its plan.
CAUSES = (
    "after_promotion", "analysis", "breaker", "collapse", "load", "operator", "quality_regression", "stable_arm",
)  # fmt: skip
HELD = "held"          # the label of a hold, beside that of the phase
_ALL = (ROLLOUT_WEIGHT, ROLLOUT_PHASE, ROLLOUT_EVALUE, ROLLOUT_EFFECT, RATIO_MISMATCH)


class RolloutMetrics:
    """Gauges of open rollouts, and how often versions were taken back."""

    def __init__(self, values: SharedValues) -> None:
        self._values = values

    def show(self, watched: Watched) -> None:
        """The state of a rollout, open or just ended."""
        rollout, gauge = watched.course.rollout, self._values.gauge
        names = (rollout.route, rollout.candidate)
        for cause in (*CAUSES, *(metric.name for metric in watched.course.plan.metrics)):
            self._values.counter(ROLLBACKS, rollout.route, cause)  # at 0: increase() misses a first count without it
        gauge(ROLLOUT_WEIGHT, *names).set(rollout.weight)
        for phase in Phase:
            gauge(ROLLOUT_PHASE, *names, phase.value).set(float(phase is rollout.phase))
        gauge(ROLLOUT_PHASE, *names, HELD).set(float(watched.course.memory.hold is not None))
        for finding in watched.evidence.findings:
            if finding.log_e is not None:
                gauge(ROLLOUT_EVALUE, *names, finding.metric).set(finding.log_e)
        for finding in watched.analysis.findings if watched.analysis else ():
            if finding.test == "ratio_mismatch" and finding.log_e is not None:
                gauge(RATIO_MISMATCH, *names).set(finding.log_e)
            bounds = {"estimate": finding.effect, "lower": finding.lower, "upper": finding.upper}
            for bound, value in bounds.items():
                if value is not None:
                    gauge(ROLLOUT_EFFECT, *names, finding.metric, bound).set(value)

    def rolled_back(self, route: str, cause: str) -> None:
        """A version was taken back."""
        self._values.counter(ROLLBACKS, route, cause).inc()

    def gone(self, watched: Watched) -> None:
        """It is not looked at any more: its series go."""
        self._values.drop("version", watched.course.rollout.candidate, _ALL)
