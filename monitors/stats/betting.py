"""Means of bounded observations by betting: exact at any sample size, at every look.

Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024): the hedged capital
process of section 4.2 with the plug-in bets of equation (26).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitors.stats.results import InsufficientData, Interval, require_probability

Floats = NDArray[np.float64]


def betting_e(x: ArrayLike, mean: float, alpha: float = 0.05) -> Floats:
    """e-values against "the mean is `mean`" after each of the n observations in [0, 1]. Shape (n,).

    K± = Π(1 ± λ(x − m)) with λ_t = √(2 ln(2/α) / (t ln(1 + t) σ̂²_{t−1})), truncated at ½/m and ½/(1 − m);
    the hedged e-value is max(½K⁺, ½K⁻).
    """
    values = _bounded(x)
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"mean must lie in [0, 1], not {mean}")
    return np.exp(_log_capital(values, np.array([mean]), _bets(values, alpha))[:, 0])


def betting_e_below(x: ArrayLike, mean: float, alpha: float = 0.05) -> Floats:
    """e-values against "the mean is at least `mean`": K⁻ alone, with bets for the level alpha. Shape (n,)."""
    values = _bounded(x)
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"mean must lie in [0, 1], not {mean}")
    return np.exp(_log_sides(values, np.array([mean]), _bets(values, 2 * alpha))[1][:, 0])


def betting_interval(x: ArrayLike, alpha: float = 0.05, grid: int = 1000) -> Interval:
    """{m : e(m) < 1/α} on a grid of [0, 1], widened by one grid step on each side so that nothing is cut off.

    Raises InsufficientData without observations.
    """
    values = _bounded(x)
    if values.size == 0:
        raise InsufficientData("no observations: there is no interval yet")
    means = np.linspace(0.0, 1.0, grid + 1)
    inside = np.flatnonzero(_log_capital(values, means, _bets(values, alpha))[-1] < -np.log(alpha))
    if inside.size == 0:  # between two grid points
        centre = float(values.mean())
        return Interval(max(0.0, centre - 1 / grid), min(1.0, centre + 1 / grid))
    return Interval(max(0.0, float(means[inside[0]]) - 1 / grid), min(1.0, float(means[inside[-1]]) + 1 / grid))


def _bounded(x: ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"observations must be one-dimensional, not {values.ndim}-dimensional")
    if values.size and not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueError("observations must lie in [0, 1]")
    return values


def _bets(values: Floats, alpha: float) -> Floats:
    """λ_t before truncation, from the past only. Shape (n,)."""
    require_probability(alpha, "alpha")
    t = np.arange(1, values.size + 1)
    running_mean = (0.5 + np.cumsum(values)) / (t + 1)
    variance = (0.25 + np.cumsum((values - running_mean) ** 2)) / (t + 1)
    before = np.concatenate(([0.25], variance[:-1]))
    bets: Floats = np.sqrt(2 * np.log(2 / alpha) / (t * np.log1p(t) * before))
    return bets


def _log_capital(values: Floats, means: Floats, bets: Floats) -> Floats:
    """log max(½K⁺, ½K⁻) after each observation, for each mean. Shape (n, means)."""
    capital: Floats = np.maximum(*_log_sides(values, means, bets)) - np.log(2)
    return capital


def _log_sides(values: Floats, means: Floats, bets: Floats) -> tuple[Floats, Floats]:
    """log K⁺ and log K⁻ after each observation, for each mean. Shapes (n, means)."""
    with np.errstate(divide="ignore"):
        up = np.minimum(bets[:, None], 0.5 / means[None, :])
        down = np.minimum(bets[:, None], 0.5 / (1.0 - means[None, :]))
    gap = values[:, None] - means[None, :]
    return np.cumsum(np.log1p(up * gap), axis=0), np.cumsum(np.log1p(-down * gap), axis=0)
