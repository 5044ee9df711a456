"""Candidate against concurrent stable, within one step: is it shown to be within the margin, beyond it, or neither?

Everything is turned into a gain: positive is better, whatever the metric's direction. Non-inferiority: the lower bound
of the gain is above −tolerance. Harm (means only; events have the attribution test): its upper bound is below it.
A ratio margin R has the gain R·stable − candidate with the tolerance 0; its `floor` allows an absolute difference too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from monitors.analysis.checks import impossible, sums_problem
from monitors.analysis.effects import Effect, effect, posterior, ratio_of
from monitors.analysis.exact import compare_exactly, trusted
from monitors.analysis.harm import phase_level
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import ArmSums, Finding, Measurements, Verdict
from monitors.analysis.wording import Shown, effect_finding, gain_sign
from monitors.stats import sequential
from monitors.stats.results import InsufficientData


@dataclass(frozen=True, slots=True)
class _Test:
    """One way to show that the candidate is tolerable: `gain` against −`tolerance`, at `alpha`."""

    gain: Effect
    tolerance: float
    alpha: float
    shown: float                   # the same tolerance as a difference candidate − stable, positive


def compare(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> Finding:
    """PASS, FAIL, INCONCLUSIVE or ERROR for one metric, by its sums."""
    for who, sums in (("candidate", candidate), ("stable", stable)):
        if problem := sums_problem(metric, sums):
            return impossible(metric.name, "sequential", f"{problem} ({who})")
    try:
        if metric.bounded and not (trusted(candidate) and trusted(stable)):
            return compare_exactly(metric, candidate, stable, spec)
        if (fewest := min(candidate.units, stable.units)) < sequential.MIN_UNITS_PER_ARM:
            raise InsufficientData(f"{fewest} units on an arm, {sequential.MIN_UNITS_PER_ARM} needed")
        if spec.horizon:
            return _fixed(metric, candidate, stable, spec)
        return _sequential(metric, candidate, stable, spec)
    except InsufficientData as reason:
        n = candidate.units + stable.units
        return Finding(metric.name, "sequential", Verdict.INCONCLUSIVE, f"{metric.name}: {reason}", n=n)


def no_data(metric: MetricSpec) -> Finding:
    """The finding for a metric that was not measured at all."""
    return Finding(metric.name, "sequential", Verdict.INCONCLUSIVE, f"{metric.name}: no data")


def explore(metrics: Sequence[MetricSpec], measured: Measurements, spec: JudgeSpec) -> list[Finding]:
    """Metrics that are only shown: effects, and which of them differ (Benjamini–Hochberg over always-valid p)."""
    from monitors.stats.multiple import benjamini_hochberg

    found = [_explored(metric, measured, spec) for metric in metrics]
    tested = [finding.metric for finding in found if finding.p is not None]
    marks = benjamini_hochberg([finding.p for finding in found if finding.p is not None], spec.alpha)
    differing = {name for name, differs in zip(tested, marks, strict=True) if differs}
    return [replace(f, reason=f"{f.reason}; differs from stable") if f.metric in differing else f for f in found]


def _explored(metric: MetricSpec, measured: Measurements, spec: JudgeSpec) -> Finding:
    if metric.name not in measured.metrics:
        return no_data(metric)
    candidate, stable = measured.metrics[metric.name]
    found = compare(metric, candidate, stable, replace(spec, horizon=0))
    if found.test != "sequential" or found.effect is None:
        return found
    plain = effect(candidate, stable)
    p = sequential.asymptotic_p(plain.difference, plain.standard_error, plain.units, spec.alpha, spec.tuning_units)
    return replace(found, p=p, log_e=None, threshold=None)


def superiority_p(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> float:
    """One-sided p against "the candidate is not better". Raises InsufficientData."""
    found = effect(candidate, stable)
    gain, error = gain_sign(metric) * found.difference, found.standard_error
    if spec.horizon:
        if min(candidate.units, stable.units) < spec.horizon or error == 0:
            raise InsufficientData("the horizon is not reached")
        return NormalDist().cdf(-gain / error)
    return sequential.asymptotic_p_above(gain, error, found.units, spec.alpha, spec.tuning_units)


def _sequential(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> Finding:
    tuning = spec.tuning_units

    def p_of(test: _Test, sign: float, alpha: float) -> float:
        gap = sign * (test.gain.difference + test.tolerance)
        return sequential.asymptotic_p_above(gap, test.gain.standard_error, test.gain.units, alpha, tuning)

    plain = effect(candidate, stable)
    tests = _tests(metric, candidate, stable, plain, spec.alpha)
    ps, level = [p_of(test, 1.0, test.alpha) for test in tests], phase_level(spec)
    harm_p = max(p_of(test, -1.0, level) for test in tests)  # worse by every measure
    verdict = Verdict.PASS if _any_passes(ps, tests) else Verdict.INCONCLUSIVE
    if metric.kind == "mean" and metric.gating and harm_p <= level:
        verdict = Verdict.FAIL
    n, error = plain.units, plain.standard_error
    bounds = sequential.asymptotic_interval(plain.difference, error, n, spec.alpha, tuning, one_sided=True)
    found = effect_finding(metric, "sequential", verdict, _shown(plain, bounds, tests))
    better, loss = posterior(gain_sign(metric) * plain.difference, error)
    found = replace(found, p=_combined(ps, tests, spec.alpha), better=better, expected_loss=loss)
    if metric.kind == "event":
        return found
    return replace(found, log_e=-math.log(max(harm_p, 1e-300)), threshold=-math.log(level))


def _fixed(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, spec: JudgeSpec) -> Finding:
    """The same once, at a size set beforehand; harm is still tested at every look."""
    looked = _sequential(metric, candidate, stable, spec)
    if looked.verdict is Verdict.FAIL:
        return looked
    if (units := min(candidate.units, stable.units)) < spec.horizon:
        reason = f"{metric.name}: {units} of the {spec.horizon} units per arm that its test was planned for"
        return replace(looked, test="fixed", verdict=Verdict.INCONCLUSIVE, reason=reason, p=None)
    plain = effect(candidate, stable)
    tests = _tests(metric, candidate, stable, plain, spec.alpha)
    ps = [_fixed_p(metric, candidate, stable, test) for test in tests]
    reach = -NormalDist().inv_cdf(spec.alpha) * plain.standard_error
    bounds = (plain.difference - reach, plain.difference + reach)
    verdict = Verdict.PASS if _any_passes(ps, tests) else Verdict.INCONCLUSIVE
    found = effect_finding(metric, "fixed", verdict, _shown(plain, bounds, tests))
    kept = {name: getattr(looked, name) for name in ("log_e", "threshold", "better", "expected_loss")}
    return replace(found, p=_combined(ps, tests, spec.alpha), **kept)


def _fixed_p(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, test: _Test) -> float:
    """Farrington–Manning's score test for one yes or no per unit and an absolute margin, else a z-test of the ratio."""
    single = all(a.d == a.dd == a.units and a.mm == a.m and not a.has_covariate for a in (candidate, stable))
    if single and metric.bounded and metric.margin_unit == "absolute":
        from monitors.stats.fixed import noninferiority_score

        good = [a.m if metric.direction == "increase" else a.units - a.m for a in (candidate, stable)]
        return noninferiority_score(good[0], candidate.units, good[1], stable.units, -test.tolerance).p
    return NormalDist().cdf(-(test.gain.difference + test.tolerance) / test.gain.standard_error)


def _tests(metric: MetricSpec, candidate: ArmSums, stable: ArmSums, plain: Effect, alpha: float) -> list[_Test]:
    """One test, or two at half of α each where either of them suffices (a ratio margin with a floor)."""
    gain = replace(plain, difference=gain_sign(metric) * plain.difference)
    if metric.margin_unit == "absolute":
        return [_Test(gain, metric.margin, alpha, metric.margin)]
    if metric.margin_unit == "sd":
        tolerance = max(metric.floor, metric.margin * plain.sd)
        return [_Test(gain, tolerance, alpha, tolerance)]
    scaled = effect(candidate, stable, metric.margin)
    ratio = replace(scaled, difference=-scaled.difference)
    shown = (metric.margin - 1) * ratio_of(stable)
    if metric.floor == 0:
        return [_Test(ratio, 0.0, alpha, shown)]
    return [_Test(ratio, 0.0, alpha / 2, shown), _Test(gain, metric.floor, alpha / 2, metric.floor)]


def _any_passes(ps: list[float], tests: list[_Test]) -> bool:
    return any(p <= test.alpha for p, test in zip(ps, tests, strict=True))


def _combined(ps: list[float], tests: list[_Test], alpha: float) -> float:
    """One p to be compared with alpha."""
    return min([1.0, *(p * alpha / test.alpha for p, test in zip(ps, tests, strict=True))])


def _shown(plain: Effect, bounds: tuple[float, float], tests: list[_Test]) -> Shown:
    return Shown(plain.difference, *bounds, max(test.shown for test in tests), plain.units)
