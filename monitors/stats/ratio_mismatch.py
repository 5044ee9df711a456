"""Did the split come out as configured? It voids an experiment when it did not, so it is tested first.

Sequential: Lindon & Malek (2022), a Dirichlet mixture around the configured weights; exact at every look.
Offline: Pearson's χ², to be believed at p < .001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitors.stats.results import InsufficientData


class RatioMismatchTest:
    """log E = ln B(kθ₀ + c) − ln B(kθ₀) − Σ c_i ln θ₀_i. Alarm at E ≥ 1000. `weights` are normalised."""

    def __init__(self, weights: Sequence[float], concentration: float = 100) -> None:
        self._weights = _normalised(weights)
        if concentration <= 0:
            raise ValueError("concentration must be positive")
        self._prior = [concentration * weight for weight in self._weights]
        self._counts = [0.0] * len(self._weights)

    def observe(self, counts: Sequence[float]) -> float:
        """The cumulative counts per arm so far; they never fall. Returns log E."""
        if len(counts) != len(self._weights) or any(new < old for new, old in zip(counts, self._counts, strict=True)):
            raise ValueError(f"cumulative counts cannot go from {self._counts} to {list(counts)}")
        self._counts = [float(count) for count in counts]
        return self.log_e

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value now; 0 before the first count."""
        posterior = [prior + count for prior, count in zip(self._prior, self._counts, strict=True)]
        likelihood = sum(c * math.log(w) for c, w in zip(self._counts, self._weights, strict=True))
        return _log_beta(posterior) - _log_beta(self._prior) - likelihood


def chi_square_p(counts: Sequence[float], weights: Sequence[float]) -> float:
    """p of Pearson's χ² for the counts against the configured weights. Raises InsufficientData below 5 expected."""
    shares, total = _normalised(weights), math.fsum(counts)
    if len(counts) != len(shares) or min(counts) < 0:
        raise ValueError(f"{list(counts)} are not counts for {len(shares)} arms")
    if min(shares) * total < 5:
        raise InsufficientData("fewer than 5 expected in an arm: χ² is no approximation yet")
    from scipy.stats import chi2  # the sequential test, which a controller runs, needs no scipy

    statistic = sum((count - total * share) ** 2 / (total * share) for count, share in zip(counts, shares, strict=True))
    return float(chi2.sf(statistic, len(shares) - 1))


def _normalised(weights: Sequence[float]) -> list[float]:
    if len(weights) < 2 or not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError("weights must be two or more positive numbers")
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _log_beta(values: Sequence[float]) -> float:
    return math.fsum(map(math.lgamma, values)) - math.lgamma(math.fsum(values))
