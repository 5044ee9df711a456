"""Values in 0..1 where an arm has few units, or few of one outcome: exact bounds, valid at any size and at every look.

Such an arm's share of units that something bad happened to is bounded by monitors.stats.bounded. The rate among answers
is at most this share, and at least this share divided by the answers that a unit has: the bounds err on the side of
calling nothing shown. An arm with enough of both outcomes is bounded by its own asymptotic confidence sequence.
"""

from __future__ import annotations

import math

from monitors.analysis.effects import ratio_of, spread
from monitors.analysis.harm import phase_level
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import ArmSums, Finding, Verdict
from monitors.analysis.wording import Shown, effect_finding
from monitors.stats import sequential
from monitors.stats.bounded import bounded_interval
from monitors.stats.results import InsufficientData, Interval


def compare_exactly(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> Finding:
    """PASS where the candidate's upper bound is within the tolerance above stable's lower one; FAIL likewise."""
    if min(candidate.units, stable.units) == 0:
        raise InsufficientData("no data")
    worse, base = (_badness(metric, arm, spec.alpha, spec.tuning_units) for arm in (candidate, stable))
    tolerance = _tolerance(metric, base.lower, stable)
    passes = worse.upper < base.lower + tolerance
    suspect = metric.kind == "mean" and metric.gating and worse.lower > base.upper  # needed for harm, at any level
    fails = suspect and _harmful(metric, candidate, stable, spec)
    verdict = Verdict.FAIL if fails else Verdict.PASS if passes else Verdict.INCONCLUSIVE
    low, high = worse.lower - base.upper, worse.upper - base.lower
    low, high = (low, high) if metric.direction == "decrease" else (-high, -low)
    shown = Shown(ratio_of(candidate) - ratio_of(stable), low, high, tolerance, candidate.units + stable.units)
    return effect_finding(metric, "exact", verdict, shown)


def trusted(sums: ArmSums) -> bool:
    """True when the asymptotics may be trusted for values in 0..1: enough units, which differ, and both outcomes."""
    return (
        sums.units >= sequential.MIN_UNITS_PER_ARM
        and all(min(v, _hit(v, squares)) >= sequential.MIN_PER_OUTCOME for v, squares in _outcomes(sums))
        and spread(sums) > 0
    )


def _harmful(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> bool:
    worse, base = (_badness(metric, arm, phase_level(spec), spec.tuning_units) for arm in (candidate, stable))
    return worse.lower > base.upper + _tolerance(metric, base.upper, stable)


def _badness(metric: MetricSpec, sums: ArmSums, alpha: float, tuning: float) -> Interval:
    """Bounds of the share of bad in all answers: half of alpha, so that two arms' bounds hold together."""
    good, bad = _outcomes(sums) if metric.direction == "increase" else reversed(_outcomes(sums))
    if trusted(sums):
        error, rate = spread(sums) / math.sqrt(sums.units), bad[0] / sums.d
        reach = sequential.half_width(error, sums.units, alpha / 2, tuning / 2)
        return Interval(max(0.0, rate - reach), min(1.0, rate + reach))
    if metric.kind == "event":  # what is rare is known beforehand
        return _rate(*bad, sums, alpha / 2)
    seen, missing = _rate(*bad, sums, alpha / 4), _rate(*good, sums, alpha / 4)
    return Interval(max(seen.lower, 1 - missing.upper), min(seen.upper, 1 - missing.lower))


def _rate(total: float, squares: float, sums: ArmSums, alpha: float) -> Interval:
    """Bounds of an outcome's share in all answers, from the share of units that had it: these are at most `total`."""
    most = min(max(0.0, total), sums.units)
    least = min(most, _hit(total, squares))
    high = bounded_interval(most, sums.units, alpha)
    low = high if least == most else bounded_interval(least, sums.units, alpha)
    return Interval(low.lower / max(1.0, sums.d / sums.units), high.upper)


def _outcomes(sums: ArmSums) -> tuple[tuple[float, float], tuple[float, float]]:
    """(Σv, Σv²) of what units had of the value itself, and of its opposite, d − m."""
    return (sums.m, sums.mm), (sums.d - sums.m, sums.dd - 2 * sums.md + sums.mm)


def _hit(total: float, squares: float) -> float:
    """Units hit, at least: (Σv)²/Σv² (Cauchy–Schwarz)."""
    return total * total / squares if squares > 0 else 0.0


def _tolerance(metric: MetricSpec, base: float, stable: ArmSums) -> float:
    """How much worse than a stable rate of `base` is tolerated."""
    if metric.margin_unit == "absolute":
        return metric.margin
    if metric.margin_unit == "ratio":
        return max(metric.floor, (metric.margin - 1) * base)
    return max(metric.floor, metric.margin * spread(stable))
