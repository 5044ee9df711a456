"""Fixed-horizon tests: right once, at a sample size that was set beforehand.

two_proportion_z: pooled z. newcombe_interval: Newcombe (1998), method 10. welch: Welch (1947).
noninferiority_score: Farrington & Manning (1990), variance at the constrained maximum likelihood.
"""

from __future__ import annotations

import math

from scipy.stats import norm, t

from monitors.stats.results import Difference, InsufficientData, Interval, ZTest, require_counts, require_probability


def two_proportion_z(x1: float, n1: float, x2: float, n2: float) -> ZTest:
    """Two-sided pooled z-test of x1/n1 against x2/n2. Raises InsufficientData when all outcomes are equal."""
    require_counts(x1, n1)
    require_counts(x2, n2)
    pooled = (x1 + x2) / (n1 + n2)
    variance = pooled * (1 - pooled) * (1 / n1 + 1 / n2)
    if variance == 0:
        raise InsufficientData("every outcome is the same: nothing can be compared yet")
    z = (x1 / n1 - x2 / n2) / math.sqrt(variance)
    return ZTest(z, float(2 * norm.sf(abs(z))))


def newcombe_interval(x1: float, n1: float, x2: float, n2: float, alpha: float = 0.05) -> Interval:
    """1 − α interval for x1/n1 − x2/n2 from the two Wilson score intervals; never leaves [−1, 1]."""
    low1, high1 = wilson_interval(x1, n1, alpha)
    low2, high2 = wilson_interval(x2, n2, alpha)
    p1, p2 = x1 / n1, x2 / n2
    down = math.hypot(p1 - low1, high2 - p2)
    up = math.hypot(high1 - p1, p2 - low2)
    return Interval(p1 - p2 - down, p1 - p2 + up)


def wilson_interval(x: float, n: float, alpha: float = 0.05) -> Interval:
    """Wilson's (1927) score interval for a proportion."""
    require_counts(x, n)
    z = float(norm.isf(require_probability(alpha, "alpha") / 2))
    centre = (x + z * z / 2) / (n + z * z)
    spread = z / (n + z * z) * math.sqrt(x * (n - x) / n + z * z / 4)
    return Interval(max(0.0, centre - spread), min(1.0, centre + spread))


def welch(  # noqa: PLR0917 - three numbers for each of two groups, in the usual order
    mean1: float, variance1: float, n1: float, mean2: float, variance2: float, n2: float, alpha: float = 0.05
) -> Difference:
    """Difference of means (1 − 2) with unequal variances; variances are the unbiased sample variances."""
    if min(n1, n2) < 2:
        raise InsufficientData("a variance needs two observations in each group")
    if min(variance1, variance2) < 0:
        raise ValueError("a variance is negative")
    a, b = variance1 / n1, variance2 / n2
    if a + b == 0:
        raise InsufficientData("nothing varies: there is no standard error yet")
    error = math.sqrt(a + b)
    degrees = (a + b) ** 2 / (a * a / (n1 - 1) + b * b / (n2 - 1))
    difference = mean1 - mean2
    reach = float(t.isf(require_probability(alpha, "alpha") / 2, degrees)) * error
    p = float(2 * t.sf(abs(difference) / error, degrees))
    return Difference(difference, error, Interval(difference - reach, difference + reach), p, degrees)


def noninferiority_score(x1: float, n1: float, x2: float, n2: float, margin: float) -> ZTest:
    """One-sided test that the candidate (1) is not worse than the control (2) by |margin| or more; margin < 0.

    H₀: p1 − p2 ≤ margin. A small p says "not inferior".
    """
    require_counts(x1, n1)
    require_counts(x2, n2)
    if not -1 < margin < 0:
        raise ValueError(f"the margin must lie between -1 and 0, not {margin}")
    p1, p2 = _constrained(x1, n1, x2, n2, margin)
    variance = p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2
    if variance <= 0:
        raise InsufficientData("every outcome is the same: nothing can be compared yet")
    z = (x1 / n1 - x2 / n2 - margin) / math.sqrt(variance)
    return ZTest(z, float(norm.sf(z)))


def _constrained(x1: float, n1: float, x2: float, n2: float, margin: float) -> tuple[float, float]:
    """Maximum-likelihood p1, p2 under p1 − p2 = margin: closed form of the cubic in Farrington & Manning's appendix."""
    theta = n2 / n1
    s1, s2 = x1 / n1, x2 / n2
    a = 1 + theta
    b = -(1 + theta + s1 + theta * s2 + margin * (theta + 2))
    c = margin**2 + margin * (2 * s1 + theta + 1) + s1 + theta * s2
    d = -s1 * margin * (1 + margin)
    v = b**3 / (3 * a) ** 3 - b * c / (6 * a * a) + d / (2 * a)
    u = math.copysign(math.sqrt(max(0.0, b * b / (3 * a) ** 2 - c / (3 * a))), v)
    angle = v / u**3 if u else 0.0
    w = (math.pi + math.acos(min(1.0, max(-1.0, angle)))) / 3
    p1 = 2 * u * math.cos(w) - b / (3 * a)
    p1 = min(1.0 + min(margin, 0.0), max(margin, 0.0, p1))
    return p1, p1 - margin
