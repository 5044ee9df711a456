"""How many units an arm needs, before anything is started. Fleiss, Levin & Paik, "Statistical Methods", ch. 4."""

from __future__ import annotations

import math

from scipy.stats import norm

from monitors.stats.results import require_probability


def sample_size(p1: float, p2: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Units per arm to tell p1 from p2: [z_{1−α/2}√(2p̄q̄) + z_{1−β}√(p₁q₁ + p₂q₂)]²/Δ², rounded up."""
    require_probability(p1, "p1")
    require_probability(p2, "p2")
    if p1 == p2:
        raise ValueError("p1 and p2 are equal: no sample tells them apart")
    za, zb = _quantiles(alpha / 2, power)
    mean = (p1 + p2) / 2
    root = za * math.sqrt(2 * mean * (1 - mean)) + zb * math.sqrt(p1 * (1 - p1) + p2 * (1 - p2))
    return math.ceil((root / (p1 - p2)) ** 2)


def sample_size_noninferiority(p: float, margin: float, alpha: float = 0.025, power: float = 0.8) -> int:
    """Units per arm to show that an equal candidate is not worse by |margin|: (z_{1−α} + z_{1−β})²·2pq/margin²."""
    require_probability(p, "p")
    if margin == 0:
        raise ValueError("the margin must not be 0: no sample shows that nothing at all is lost")
    za, zb = _quantiles(alpha, power)
    return math.ceil((za + zb) ** 2 * 2 * p * (1 - p) / margin**2)


def design_effect(units_per_cluster: float, intraclass_correlation: float) -> float:
    """1 + (m − 1)·ICC: what requests of the same user cost against independent ones."""
    return 1 + (units_per_cluster - 1) * intraclass_correlation


def _quantiles(alpha: float, power: float) -> tuple[float, float]:
    require_probability(alpha, "alpha")
    require_probability(power, "power")
    return float(norm.isf(alpha)), float(norm.ppf(power))
