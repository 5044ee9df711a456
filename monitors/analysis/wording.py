"""Findings about an effect, in one sentence with its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from monitors.analysis.spec import MetricSpec
from monitors.analysis.types import Finding, Verdict


@dataclass(frozen=True, slots=True)
class Shown:
    """candidate − stable as it is shown: estimate, interval, and how much worse is tolerated (positive)."""

    difference: float
    lower: float
    upper: float
    tolerance: float
    units: int


def gain_sign(metric: MetricSpec) -> float:
    """1 where more is better, else −1."""
    return 1.0 if metric.direction == "increase" else -1.0


def effect_finding(metric: MetricSpec, test: str, verdict: Verdict, shown: Shown) -> Finding:
    """Without p and log e, which not every test has."""
    state = {Verdict.PASS: "not worse than tolerated", Verdict.FAIL: "worse than tolerated"}.get(verdict, "undecided")
    tolerated = -gain_sign(metric) * shown.tolerance
    numbers = f"{shown.difference:+.4g} in [{shown.lower:+.4g}, {shown.upper:+.4g}], tolerated {tolerated:+.4g}"
    reason = f"{metric.name}: {state}; candidate minus stable {numbers}"
    return Finding(
        metric.name, test, verdict, reason, shown.difference, shown.lower, shown.upper, tolerated, n=shown.units
    )
