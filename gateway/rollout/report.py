"""What the controller says about rollouts as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.rollouts import Phase
from gateway.rollout.arms import Course, phase_of, share_of
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
    "after_promotion", "alert", "analysis", "breaker", "collapse", "load", "operator", "quality_regression",
    "stable_arm",
)  # fmt: skip
HELD = "held"          # the label of a hold, beside that of the phase
_ALL = (ROLLOUT_WEIGHT, ROLLOUT_PHASE, ROLLOUT_EVALUE, ROLLOUT_EFFECT, RATIO_MISMATCH)


class RolloutMetrics:
    """Gauges of open rollouts, and how often versions were taken back."""

    def __init__(self, values: SharedValues) -> None:
        self._values = values

    def show(self, watched: Watched) -> None:
        """The state of a rollout, open or just ended."""
        course = watched.course
        for cause in (*CAUSES, *(metric.name for metric in course.plan.metrics)):
            self._values.counter(ROLLBACKS, course.rollout.route, cause)  # at 0: else increase() misses a first count
        for version in course.rollout.candidates:
            self._show(watched, version)

    def _show(self, watched: Watched, version: str) -> None:
        """One candidate. Dropped by itself it has no weight, and is as one that was rolled back."""
        course, gauge = watched.course, self._values.gauge
        names, phase = (course.rollout.route, version), phase_of(course, version)
        gauge(ROLLOUT_WEIGHT, *names).set(share_of(course, version))
        for each in Phase:
            gauge(ROLLOUT_PHASE, *names, each.value).set(float(each is phase))
        gauge(ROLLOUT_PHASE, *names, HELD).set(float(course.memory.hold is not None))
        for finding in watched.findings_of(version):
            if finding.log_e is not None:
                gauge(ROLLOUT_EVALUE, *names, finding.metric).set(finding.log_e)
        analysis = watched.analysis_of(version)
        for finding in analysis.findings if analysis else ():
            if finding.test == "ratio_mismatch" and finding.log_e is not None:
                gauge(RATIO_MISMATCH, *names).set(finding.log_e)
            bounds = {"estimate": finding.effect, "lower": finding.lower, "upper": finding.upper}
            for bound, value in bounds.items():
                if value is not None:
                    gauge(ROLLOUT_EFFECT, *names, finding.metric, bound).set(value)

    def changed(self, before: Course, after: Course) -> None:
        """Somebody else than this controller changed a rollout: what was taken back by that counts too."""
        if after.rollout.phase is Phase.ROLLED_BACK and before.rollout.phase is not Phase.ROLLED_BACK:
            self.rolled_back(after.rollout.route, after.memory.cause or "operator")
        for version, why in after.memory.dropped.items():
            if version not in before.memory.dropped:
                self.rolled_back(after.rollout.route, why["cause"])

    def rolled_back(self, route: str, cause: str) -> None:
        """A version was taken back."""
        self._values.counter(ROLLBACKS, route, cause).inc()

    def gone(self, watched: Watched) -> None:
        """It is not looked at any more: its series go."""
        for version in watched.course.rollout.candidates:
            self._values.drop("version", version, _ALL)
