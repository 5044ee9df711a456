"""Means of observations in [0, 1] from their sum alone: exact at any sample size and at every look.

The beta-binomial mixture of Robbins (1970) as in Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences" (Annals of Statistics 2021), section 3.2. Betting (monitors.stats.betting) adapts to
the variance but needs the observations in order; this needs only two numbers, which a database can add up.
"""

from __future__ import annotations

import math

from monitors.stats.results import InsufficientData, Interval, require_probability

# Beta priors, averaged: around one percent, tight for rates that should be near 0; and Jeffreys', good everywhere.
PRIORS = ((0.5, 50.0), (0.5, 0.5))
_STEPS = 32


def bounded_log_e(total: float, n: float, mean: float) -> float:
    """log E against "the mean is `mean`": ln B(a + S, b + n − S) − ln B(a, b) − S ln m − (n − S) ln(1 − m), averaged.

    total: S, the sum of n independent observations in [0, 1]; mean in (0, 1). For values that are not 0 or 1 it is
    still an e-process, because each factor is convex in the observation. Raises ValueError and InsufficientData.
    """
    _check(total, n)
    require_probability(mean, "mean")
    return _log_e(_log_mixture(total, n), total, n, mean)


def bounded_interval(total: float, n: float, alpha: float = 0.05) -> Interval:
    """{m : E(m) < 1/α}: a confidence sequence for the mean; both ends hold together. Found by bisection."""
    _check(total, n)
    limit = -math.log(require_probability(alpha, "alpha"))
    centre = min(max(total / n, 1e-12), 1 - 1e-12)  # E is smallest here, and rises on both sides
    mixture = _log_mixture(total, n)

    def edge(outside: float) -> float:
        inside = centre
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            if _log_e(mixture, total, n, middle) < limit:
                inside = middle
            else:
                outside = middle
        return outside

    return Interval(0.0 if total == 0 else edge(0.0), 1.0 if total == n else edge(1.0))


def _log_e(mixture: float, total: float, n: float, mean: float) -> float:
    return mixture - total * math.log(mean) - (n - total) * math.log1p(-mean)


def _log_mixture(total: float, n: float) -> float:
    parts = [_log_beta(a + total, b + n - total) - _log_beta(a, b) for a, b in PRIORS]
    return max(parts) + math.log(sum(math.exp(part - max(parts)) for part in parts) / len(parts))


def _check(total: float, n: float) -> None:
    if not (math.isfinite(total) and math.isfinite(n)) or not -1e-9 <= total <= n + 1e-9:
        raise ValueError(f"a sum of {total} over {n} observations in [0, 1] is impossible")
    if n <= 0:
        raise InsufficientData("no observations: there is no interval yet")


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
