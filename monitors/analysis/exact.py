"""Values in 0..1 with few units, or few of one outcome: exact bounds, valid at any size and at every look.

Each arm's share of units that something bad happened to is bounded by monitors.stats.bounded; a unit with several bad
answers counts at most once each, so that the bounds err on the side of holding the candidate back.
"""

from __future__ import annotations

from monitors.analysis.effects import ratio_of, spread
from monitors.analysis.harm import phase_level
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import ArmSums, Finding, Verdict
from monitors.analysis.wording import Shown, effect_finding
from monitors.stats.bounded import bounded_interval
from monitors.stats.results import InsufficientData, Interval


def compare_exactly(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> Finding:
    """PASS where the candidate's upper bound is within the tolerance above stable's lower one; FAIL likewise."""
    if min(candidate.units, stable.units) == 0:
        raise InsufficientData("no data")
    worse, base = _badness(metric, candidate, spec.alpha), _badness(metric, stable, spec.alpha)
    tolerance = _tolerance(metric, base.lower, stable)
    passes = worse.upper < base.lower + tolerance
    suspect = metric.kind == "mean" and metric.gating and worse.lower > base.upper  # needed for harm, at any level
    fails = suspect and _harmful(metric, candidate, stable, phase_level(spec))
    verdict = Verdict.FAIL if fails else Verdict.PASS if passes else Verdict.INCONCLUSIVE
    low, high = worse.lower - base.upper, worse.upper - base.lower
    low, high = (low, high) if metric.direction == "decrease" else (-high, -low)
    shown = Shown(ratio_of(candidate) - ratio_of(stable), low, high, tolerance, candidate.units + stable.units)
    return effect_finding(metric, "exact", verdict, shown)


def _harmful(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, level: float) -> bool:
    worse, base = _badness(metric, candidate, level), _badness(metric, stable, level)
    return worse.lower > base.upper + _tolerance(metric, base.upper, stable)


def _badness(metric: MetricSpec, sums: ArmSums, alpha: float) -> Interval:
    """Bounds of the share of units hit by something bad: half of alpha, so that two arms' bounds hold together.

    Of Σb and Σb², b a unit's bad amount: the units hit are at most Σb, and at least (Σb)²/Σb² (Cauchy–Schwarz).
    """
    if metric.direction == "decrease":
        bad, squares = sums.m, sums.mm
    else:
        bad, squares = sums.d - sums.m, sums.dd - 2 * sums.md + sums.mm
    most = min(max(0.0, bad), sums.units)
    least = min(most, bad * bad / squares) if squares > 0 else 0.0
    low, high = (bounded_interval(total, sums.units, alpha / 2) for total in (least, most))
    return Interval(low.lower, high.upper)


def _tolerance(metric: MetricSpec, base: float, stable: ArmSums) -> float:
    """How much worse than a stable rate of `base` is tolerated."""
    if metric.margin_unit == "absolute":
        return metric.margin
    if metric.margin_unit == "ratio":
        return max(metric.floor, (metric.margin - 1) * base)
    return max(metric.floor, metric.margin * spread(stable))
