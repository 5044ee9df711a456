"""Two models on the same prompts: intervals of means over prompts, of paired differences, and of what has no formula.

A prompt is the unit: its samples are averaged first, so k samples are never taken for k prompts (Miller, "Adding error
bars to evals", 2024, sections 2.2 and 4). Interval of a mean: Wilson's with the effective sample size (Kish, "Survey
sampling", 1965; Dean & Pagano, 2015), exactly Wilson's where every value is 0 or 1. Interval of a paired difference:
square-and-add from the two means' intervals and their correlation (Zou & Donner, "Construction of confidence limits
about effect measures", 2008, eq. 8; for 0 and 1 it is Newcombe's paired interval, 1998, method 8). McNemar's test,
exact (1947). Bootstrap: Efron's bias-corrected percentile (1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binomtest, norm, t

from monitors.stats.fixed import wilson_interval
from monitors.stats.results import InsufficientData, Interval, require_probability

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of a − b over prompts that both have, its interval, and the two-sided p-value of no difference."""

    n: int
    difference: float
    interval: Interval
    p: float | None      # None: every pair is equal, so there is nothing to be tested
    better: int          # pairs with a > b
    worse: int           # pairs with a < b


def mean_interval(values: ArrayLike, alpha: float = 0.05, samples: int = 1) -> Interval:
    """1 − α interval for the mean over prompts of values in [0, 1], shape (n,); `samples`: answers behind each value.

    Raises InsufficientData for n = 0.
    """
    x = _unit_interval(values)
    mean = float(x.mean())
    count = _effective(x, samples)
    return wilson_interval(mean * count, count, alpha)


def upper_bound(values: ArrayLike, alpha: float = 0.05) -> float:
    """One-sided 1 − α upper bound for the mean of values in [0, 1] (Clopper & Pearson, 1934, at n·mean successes).

    Exact for 0 and 1. For means of several samples it is conservative: they vary less. Raises InsufficientData.
    """
    x = _unit_interval(values)
    require_probability(alpha, "alpha")
    successes = float(x.sum())
    return 1.0 if successes >= x.size else float(beta.isf(alpha, successes + 1, x.size - successes))


def prompts_needed(limit: float, alpha: float = 0.05) -> int:
    """The fewest prompts, all of them good, whose `upper_bound` is within `limit`: (1 − limit)ⁿ ≤ α."""
    require_probability(limit, "limit")
    return math.ceil(math.log(alpha) / math.log1p(-limit))


def paired_difference(a: ArrayLike, b: ArrayLike, alpha: float = 0.05, samples: int = 1) -> PairedDifference:
    """a − b, prompt by prompt; values in [0, 1], shape (n,) each. Raises InsufficientData for fewer than two pairs."""
    first, second = _unit_interval(a), _unit_interval(b)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} values are no pairs")
    if first.size < 2:
        raise InsufficientData("a paired comparison needs two prompts or more")
    better, worse = int((first > second).sum()), int((first < second).sum())
    interval = _square_and_add(first, second, alpha, samples)
    difference = float(first.mean() - second.mean())
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    p = mcnemar_exact(better, worse) if binary else _paired_t(first - second)
    return PairedDifference(first.size, difference, interval, p, better, worse)


def mcnemar_exact(better: int, worse: int) -> float | None:
    """Two-sided exact p from the discordant pairs; None when there are none."""
    if better + worse == 0:
        return None
    return float(binomtest(better, better + worse, 0.5).pvalue)


def sum_of_differences(parts: Sequence[PairedDifference]) -> Interval:
    """Interval for the plain mean of independent differences (Zou, Huang & Zhang, 2009). Raises InsufficientData."""
    if not parts:
        raise InsufficientData("there is nothing to be averaged")
    centre = sum(part.difference for part in parts) / len(parts)
    down = math.hypot(*(part.difference - part.interval.lower for part in parts)) / len(parts)
    up = math.hypot(*(part.interval.upper - part.difference for part in parts)) / len(parts)
    return Interval(centre - down, centre + up)


def bootstrap_interval(
    units: int,
    statistic: Callable[[NDArray[np.intp]], float],
    *,
    alpha: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bias-corrected percentile interval; `statistic` of the indices (with repeats) of the units drawn.

    Deterministic for a seed. Raises InsufficientData for fewer than two units.
    """
    if units < 2:
        raise InsufficientData("a bootstrap needs two units or more")
    random = np.random.default_rng(seed)
    found = statistic(np.arange(units))
    drawn = np.sort([statistic(random.integers(0, units, units)) for _ in range(draws)])
    below = (np.count_nonzero(drawn < found) + 0.5 * np.count_nonzero(drawn == found)) / draws
    shift = 2 * float(norm.ppf(min(max(below, 0.5 / draws), 1 - 0.5 / draws)))
    z = float(norm.isf(require_probability(alpha, "alpha") / 2))
    low, high = (float(np.quantile(drawn, norm.cdf(shift + sign * z))) for sign in (-1, 1))
    return Interval(low, high)


def _unit_interval(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError("one value per prompt is expected")
    if x.size == 0:
        raise InsufficientData("there are no prompts")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError("values must lie in [0, 1]")
    return x


def _effective(x: Floats, samples: int) -> float:
    """The number of 0-or-1 prompts that would tell as much about the mean: between n and n·samples."""
    mean, n = float(x.mean()), x.size
    variance = float(x.var(ddof=1)) if n > 1 else 0.0
    if not 0 < mean < 1:
        return float(n)
    binary = mean * (1 - mean) * n / max(n - 1, 1)
    if variance * samples <= binary:
        return float(n * samples)
    return max(float(n), n * binary / variance)


def _square_and_add(a: Floats, b: Floats, alpha: float, samples: int) -> Interval:
    low_a, high_a = mean_interval(a, alpha, samples)
    low_b, high_b = mean_interval(b, alpha, samples)
    mean_a, mean_b, r = float(a.mean()), float(b.mean()), _correlation(a, b)

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x + y * y - 2 * r * x * y))

    difference = mean_a - mean_b
    return Interval(
        max(-1.0, difference - reach(mean_a - low_a, high_b - mean_b)),
        min(1.0, difference + reach(high_a - mean_a, mean_b - low_b)),
    )


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's, shrunk a little (1/n) so that identical answers on few prompts are not taken for certainty; else 0."""
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    r = float(np.corrcoef(a, b)[0, 1])
    return max(-1.0, min(1.0, r)) * (1 - 1 / a.size)


def _paired_t(differences: Floats) -> float | None:
    error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    if error == 0:  # all the same: a sign test of that many equal signs, or nothing to be tested
        return mcnemar_exact(int((differences > 0).sum()), int((differences < 0).sum()))
    return float(2 * t.sf(abs(float(differences.mean())) / error, differences.size - 1))
