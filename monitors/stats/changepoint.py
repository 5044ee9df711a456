"""Has it got worse since some unknown moment? The Shiryaev–Roberts e-detector.

Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2023), eq. 14:
M_t = (M_{t−1} + 1)·L_t. An alarm at M ≥ A has an average run length of at least A observations without a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class ShiryaevRoberts:
    """Detects that a mean of observations in [0, 1] has risen above `mean`. No numpy; about 1 µs an observation.

    bets: λ of L = 1 + λ(x − mean), each in (0, 1/mean); one detector each, averaged. threshold: A.
    """

    def __init__(self, mean: float, bets: Sequence[float] = (0.25, 0.5, 1.0, 1.8), threshold: float = 1e4) -> None:
        if not 0 < mean < 1:
            raise ValueError(f"mean must lie between 0 and 1, not {mean}")
        if not bets or not all(0 < bet < 1 / mean for bet in bets):
            raise ValueError(f"every bet must lie between 0 and 1/mean = {1 / mean:g}")
        if threshold <= 1:
            raise ValueError("the threshold must be above 1: it is the average run length without a change")
        self._mean = mean
        self._bets = tuple(bets)
        self.threshold = threshold
        self.statistics = [0.0] * len(self._bets)  # restorable: a detector's whole state
        self.alarm = False  # stays True once raised

    def observe(self, x: float) -> float:
        """One observation in [0, 1]; returns M. Raises ValueError."""
        if not (math.isfinite(x) and 0.0 <= x <= 1.0):
            raise ValueError(f"observations must lie in [0, 1], not {x}")
        gap = x - self._mean
        self.statistics = [
            min((m + 1) * (1 + bet * gap), 1e300) for m, bet in zip(self.statistics, self._bets, strict=True)
        ]
        value = self.value
        self.alarm = self.alarm or value >= self.threshold
        return value

    @property
    def value(self) -> float:
        """M now: the mean over the bets."""
        return sum(self.statistics) / len(self.statistics)
