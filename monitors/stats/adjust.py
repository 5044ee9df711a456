"""Less variance, and the right one: covariate adjustment and ratios of per-unit sums.

CUPED: Deng, Xu, Kohavi & Walker, "Improving the sensitivity of online controlled experiments by utilizing
pre-experiment data" (WSDM 2013), eq. 4–6. Ratios: the delta method, Deng, Knoblich & Lu (KDD 2018), eq. 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from monitors.stats.results import Adjusted, InsufficientData, Ratio


def cuped(y: ArrayLike, x: ArrayLike, group: ArrayLike) -> Adjusted:
    """Difference of mean Y − θ(X − X̄), group 1 minus group 0; θ is the pooled within-group cov/var.

    y, x: outcomes and covariates per unit, shape (n,); group: 0 or 1 per unit. X must be known before assignment, or
    be independent of it. Raises InsufficientData below two units a group, or for a covariate that does not vary.
    """
    outcome, covariate, arm = np.asarray(y, float), np.asarray(x, float), np.asarray(group)
    if not outcome.shape == covariate.shape == arm.shape or outcome.ndim != 1:
        raise ValueError("y, x and group must be one-dimensional and of the same length")
    if not np.isin(arm, (0, 1)).all() or not (np.isfinite(outcome).all() and np.isfinite(covariate).all()):
        raise ValueError("group must be 0 or 1, and y and x finite")
    halves = [arm == 0, arm == 1]
    if min(half.sum() for half in halves) < 2:
        raise InsufficientData("covariate adjustment needs two units in each group")
    within_x = covariate - np.where(arm == 1, covariate[halves[1]].mean(), covariate[halves[0]].mean())
    within_y = outcome - np.where(arm == 1, outcome[halves[1]].mean(), outcome[halves[0]].mean())
    spread = float(within_x @ within_x)
    if spread == 0:
        raise InsufficientData("the covariate does not vary: leave it out")
    theta = float(within_x @ within_y) / spread
    adjusted = outcome - theta * (covariate - covariate.mean())
    control, treated = (adjusted[half] for half in halves)
    error = math.sqrt(control.var(ddof=1) / control.size + treated.var(ddof=1) / treated.size)
    total = float(within_y @ within_y)
    explained = theta * float(within_x @ within_y) / total if total else 0.0
    return Adjusted(theta, float(treated.mean() - control.mean()), error, explained)


def ratio_estimate(numerator: ArrayLike, denominator: ArrayLike) -> Ratio:
    """Σm/Σd over units with Var(r̂) = [s²_m − 2 r s_md + r² s²_d] / (n d̄²).

    numerator, denominator: per-unit sums, shape (n,), such as bad answers and answers of a user.
    """
    m, d = np.asarray(numerator, float), np.asarray(denominator, float)
    if m.shape != d.shape or m.ndim != 1 or not (np.isfinite(m).all() and np.isfinite(d).all()):
        raise ValueError("numerator and denominator must be one-dimensional, finite and of the same length")
    if m.size < 2 or d.sum() == 0:
        raise InsufficientData("a ratio needs two units and a denominator that is not 0")
    ratio = float(m.sum() / d.sum())
    covariance = np.cov(m, d, ddof=1)
    variance = (covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]) / (
        m.size * d.mean() ** 2
    )
    return Ratio(ratio, math.sqrt(max(0.0, float(variance))))
