"""Asymptotic confidence sequences for a difference: valid at every look, tightest around `tuning_n` observations.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences"
(2021), in the form GrowthBook documents. n is the number of observations in both arms together.
"""

from __future__ import annotations

import math

from monitors.stats.results import InsufficientData, Interval, require_probability

MIN_UNITS_PER_ARM = 100  # below these the asymptotics are not yet to be trusted: callers hold back
MIN_PER_OUTCOME = 10


def mixture_scale(alpha: float = 0.05, tuning_n: float = 5000) -> float:
    """ρ = √[(−2 ln α + ln(1 − 2 ln α)) / N*]: the mixture that is tightest at N* observations."""
    require_probability(alpha, "alpha")
    if tuning_n <= 0:
        raise ValueError("tuning_n must be positive")
    return math.sqrt((-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuning_n)


def half_width(
    standard_error: float, n: float, alpha: float = 0.05, tuning_n: float = 5000, one_sided: bool = False
) -> float:
    """SE·√n·√[2(nρ² + 1)/(n²ρ²) · ln(√(nρ² + 1)/α)]; one-sided: ρ from 2α, and ln(1 + √(nρ² + 1)/(2α))."""
    _check(standard_error, n)
    rho = mixture_scale(2 * alpha if one_sided else alpha, tuning_n)
    spread = n * rho**2 + 1
    log = math.log(1 + math.sqrt(spread) / (2 * alpha)) if one_sided else math.log(math.sqrt(spread) / alpha)
    return standard_error * math.sqrt(n) * math.sqrt(2 * spread / (n**2 * rho**2) * log)


def asymptotic_interval(  # noqa: PLR0917 - the estimate, its error and its n, then options
    difference: float,
    standard_error: float,
    n: float,
    alpha: float = 0.05,
    tuning_n: float = 5000,
    one_sided: bool = False,
) -> Interval:
    """The confidence sequence at n observations. With `one_sided` each end alone is a 1 − α bound: use one of them.

    Raises InsufficientData when there is no variance or no data, ValueError for numbers that are none.
    """
    width = half_width(standard_error, n, alpha, tuning_n, one_sided)
    if not math.isfinite(difference):
        raise ValueError(f"the difference is {difference}")
    return Interval(difference - width, difference + width)


def asymptotic_p(
    difference: float, standard_error: float, n: float, alpha: float = 0.05, tuning_n: float = 5000
) -> float:
    """min(1, √(nρ² + 1)·exp(−ρ²n(Δ/SE)² / (2(nρ² + 1)))): below α exactly when 0 is outside the interval."""
    _check(standard_error, n)
    rho2 = mixture_scale(alpha, tuning_n) ** 2
    spread = n * rho2 + 1
    z2 = (difference / standard_error) ** 2
    if not math.isfinite(z2):
        raise ValueError(f"the difference is {difference}")
    return min(1.0, math.sqrt(spread) * math.exp(-rho2 * n * z2 / (2 * spread)))


def asymptotic_p_above(
    difference: float, standard_error: float, n: float, alpha: float = 0.05, tuning_n: float = 5000
) -> float:
    """One-sided: p against "the difference is at most 0", valid at every look.

    √(nρ² + 1) / (2(exp(ρ²nz²/(2(nρ² + 1))) − 1)), at most 1, for z > 0: below α exactly when the lower end of the
    one-sided interval is above 0.
    """
    _check(standard_error, n)
    z = difference / standard_error
    if not math.isfinite(z):
        raise ValueError(f"the difference is {difference}")
    if z <= 0:
        return 1.0
    rho2 = mixture_scale(2 * alpha, tuning_n) ** 2
    spread = n * rho2 + 1
    power = rho2 * n * z * z / (2 * spread)
    if power > 700:
        return 0.0
    growth = math.expm1(power)
    return min(1.0, math.sqrt(spread) / (2 * growth)) if growth > 0 else 1.0


def _check(standard_error: float, n: float) -> None:
    if not (math.isfinite(standard_error) and math.isfinite(n)) or standard_error < 0:
        raise ValueError(f"standard error {standard_error}, n {n}")
    if n <= 0 or standard_error == 0:
        raise InsufficientData("no observations, or none that vary: there is no interval yet")
