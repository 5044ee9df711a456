"""Whose are the bad events? An always-valid test that looks at nothing else, so base rates and ramps may change.

Lindon & Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022). Given that a bad event happened,
it belongs to the candidate with probability θ(R) = ρR / (ρR + 1 − ρ), where ρ is the candidate's share of the traffic
at the moment the response was served, and R the relative risk. Under the null R ≤ R₀ the average likelihood ratio over
alternatives R > R₀ is an e-process: it exceeds 1/α with probability at most α, whenever one looks (Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitors.stats.results import require_probability

RISKS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


class AttributionTest:
    """Feed it every bad event of either arm. About 2 µs an event; no numpy.

    alpha: probability of ever rejecting while the candidate's risk is at most `null_risk` times the control's.
    risks: multiples of `null_risk` that the evidence is averaged over, each above 1.
    """

    def __init__(self, alpha: float = 0.001, null_risk: float = 1.0, risks: Sequence[float] = RISKS) -> None:
        if null_risk <= 0 or not risks or min(risks) <= 1:
            raise ValueError("null_risk must be positive, and every alternative risk above 1")
        self.alpha = require_probability(alpha, "alpha")
        self._null = null_risk
        self._risks = tuple(risks)
        self._log_ratios = [0.0] * len(self._risks)
        self._log_threshold = -math.log(alpha)
        self._share, self._steps = math.nan, self._steps_at(0.5)  # of the last event: shares rarely change
        self.events = 0
        self.candidate_events = 0
        self.rejected = False  # stays True once the threshold was reached

    def observe(self, candidate: bool, share: float) -> float:
        """One bad event: was it the candidate's, whose share was `share`? Returns log E. Raises ValueError."""
        if share != self._share:
            self._share, self._steps = require_probability(share, "share"), self._steps_at(share)
        steps = self._steps[0] if candidate else self._steps[1]
        self._log_ratios = [total + step for total, step in zip(self._log_ratios, steps, strict=True)]
        self.events += 1
        self.candidate_events += candidate
        log_e = self.log_e
        self.rejected = self.rejected or log_e >= self._log_threshold
        return log_e

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value now."""
        top = max(self._log_ratios)
        return top + math.log(sum(math.exp(x - top) for x in self._log_ratios) / len(self._log_ratios))

    def _steps_at(self, share: float) -> tuple[list[float], list[float]]:
        """What one event adds to each log likelihood ratio: the candidate's, the control's."""
        null, others = self._attributed(share, 1.0), [self._attributed(share, risk) for risk in self._risks]
        mine = [math.log(other / null) for other in others]
        return mine, [math.log((1.0 - other) / (1.0 - null)) for other in others]

    def _attributed(self, share: float, risk: float) -> float:
        """θ(risk · R₀)."""
        weighted = share * risk * self._null
        return weighted / (weighted + 1.0 - share)
