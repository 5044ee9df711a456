"""Candidate minus stable from per-unit sums: estimate, standard error, standard deviation, with or without CUPED.

Ratios by the delta method (Deng, Knoblich & Lu, KDD 2018, eq. 3): a unit's linearised value is (m_i − r d_i) / d̄.
CUPED (Deng et al., WSDM 2013, eq. 4–6) on that value, θ pooled within the arms; for d_i = 1 both are the textbook's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from monitors.analysis.types import ArmSums
from monitors.stats.results import InsufficientData


@dataclass(frozen=True, slots=True)
class Effect:
    """candidate − factor · stable in the metric's own unit. `sd` is stable's standard deviation over units."""

    difference: float
    standard_error: float
    units: int                     # of both arms
    sd: float


@dataclass(frozen=True, slots=True)
class _Arm:
    ratio: float
    variance: float                # of a unit's linearised value
    units: int
    x_mean: float = 0.0
    x_variance: float = 0.0
    covariance: float = 0.0        # of the linearised value with the covariate


def ratio_of(sums: ArmSums) -> float:
    """Σm/Σd. Raises InsufficientData without answers."""
    if sums.d <= 0:
        raise InsufficientData("no answers yet")
    return sums.m / sums.d


def spread(sums: ArmSums) -> float:
    """Standard deviation over units of the linearised value; 0 below two units."""
    return math.sqrt(_arm(sums).variance) if sums.units >= 2 else 0.0


def effect(candidate: ArmSums, stable: ArmSums, factor: float = 1.0) -> Effect:
    """candidate − factor · stable; adjusted by the covariate where both arms carry one and factor is 1.

    Raises InsufficientData below two units an arm.
    """
    arms = (_arm(candidate), _arm(stable))
    difference = arms[0].ratio - factor * arms[1].ratio
    variances = [arms[0].variance, factor**2 * arms[1].variance]
    if factor == 1 and candidate.has_covariate and stable.has_covariate:
        theta = _theta(arms)
        difference -= theta * (arms[0].x_mean - arms[1].x_mean)
        variances = [a.variance - 2 * theta * a.covariance + theta**2 * a.x_variance for a in arms]
    error = math.sqrt(sum(max(0.0, v) / a.units for v, a in zip(variances, arms, strict=True)))
    return Effect(difference, error, candidate.units + stable.units, math.sqrt(arms[1].variance))


def posterior(gain: float, standard_error: float) -> tuple[float, float]:
    """(P(better), expected loss of choosing the candidate) under a flat prior, in the normal approximation.

    Shown to people, never a gate: it is not valid at every look. gain: positive is better, in the metric's unit, as is
    the loss E[max(0, −gain)]; Stucchio, "Bayesian A/B testing at VWO" (2015), section 5.
    """
    if standard_error <= 0:
        raise InsufficientData("nothing varies: there is no posterior yet")
    z, normal = gain / standard_error, NormalDist()
    return normal.cdf(z), standard_error * normal.pdf(z) - gain * normal.cdf(-z)


def _theta(arms: tuple[_Arm, _Arm]) -> float:
    """Pooled within-arm cov/var; 0 for a covariate that does not vary, which then adjusts nothing."""
    spread = sum((a.units - 1) * a.x_variance for a in arms)
    return sum((a.units - 1) * a.covariance for a in arms) / spread if spread > 0 else 0.0


def _arm(s: ArmSums) -> _Arm:
    if s.units < 2:
        raise InsufficientData("fewer than two units in an arm")
    n, ratio, mean_d = s.units, ratio_of(s), s.d / s.units
    s_mm, s_dd, s_md = (_covariance(n, *sums) for sums in ((s.mm, s.m, s.m), (s.dd, s.d, s.d), (s.md, s.m, s.d)))
    variance = max(0.0, s_mm - 2 * ratio * s_md + ratio**2 * s_dd) / mean_d**2
    if s.x is None or s.xx is None or s.xm is None or s.xd is None:
        return _Arm(ratio, variance, n)
    s_xm, s_xd = _covariance(n, s.xm, s.x, s.m), _covariance(n, s.xd, s.x, s.d)
    x_variance = max(0.0, _covariance(n, s.xx, s.x, s.x))
    return _Arm(ratio, variance, n, s.x / n, x_variance, (s_xm - ratio * s_xd) / mean_d)


def _covariance(n: int, product: float, a: float, b: float) -> float:
    """Unbiased, from Σab, Σa and Σb."""
    return (product - a * b / n) / (n - 1)
