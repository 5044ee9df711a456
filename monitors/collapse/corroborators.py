"""Signs of collapse beside satisfaction: degenerate text, a reward that has lost its meaning, other people speaking.

Each is an e-detector of its own on values in [0, 1] whose mean is ½ as long as nothing changed: ranks in the baseline,
or probability transforms of blocks. Their arithmetic mean is an e-detector again, whatever their dependence (Vovk &
Wang, "E-values: calibration, combination and applications", 2021, section 4). O(1) an observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monitors.collapse.calibration import Calibration
from monitors.stats.changepoint import ShiryaevRoberts

# What answers can be asked for: tokens, and bytes of compressed text per token, make "padding" together.
SIGNALS = ("tokens", "bytes_per_token", "duplicate_4gram", "compression_ratio", "repetition")
TOLERATED = 0.56       # mean rank: a shift of a fifth of a standard deviation is nobody's business
BETS = (0.25, 0.5, 1.0, 1.6)
FEW = 10               # departures that a block should have
BLOCK = 50             # feedbacks of one look at correlation and rate
_UP = ("duplicate_4gram", "compression_ratio", "repetition")
_OVERDISPERSION = 2.0  # variance of counts of feedback, in that of a binomial: people come in bursts


class Corroborators:
    """All of them. Unlike the primary detector they alone never take a version away."""

    def __init__(self, calibration: Calibration, threshold: float) -> None:
        self._calibration = calibration
        parts = [name for name in _UP if name in calibration.signals]
        if {"tokens", "bytes_per_token"} <= set(calibration.signals):
            parts += ["longer", "thinner"]
        parts += ["correlation", *(["rate"] if calibration.rate else [])]
        parts += ["departures"] if calibration.departures is not None else []
        self._detectors = {name: ShiryaevRoberts(TOLERATED, BETS, threshold) for name in parts}
        self._pairs = [0.0] * 6        # n, Σr, Σs, Σr², Σs², Σrs of the block
        self._traffic = [0, 0]         # answers, feedbacks of the block
        self._departures = [0, 0]      # answers, departures of the block
        self._mean: float | None = 0.0  # `value`, until something is observed

    @property
    def values(self) -> dict[str, float]:
        """M of each. Padding is "longer" and "thinner" at once: the smaller of the two (both nulls must be false)."""
        found = {name: detector.value for name, detector in self._detectors.items()}
        if "longer" in found:
            found["padding"] = min(found.pop("longer"), found.pop("thinner"))
        return found

    @property
    def value(self) -> float:
        """The arithmetic mean of all; 0 for none."""
        if self._mean is None:
            values = self.values
            self._mean = sum(values.values()) / len(values) if values else 0.0
        return self._mean

    def _observe(self, name: str, x: float) -> None:
        self._detectors[name].observe(x)
        self._mean = None

    def text(self, signals: Mapping[str, float]) -> None:
        """One answer's statistics, by names of SIGNALS; what is missing or not finite is left out."""
        finite = {name: value for name, value in signals.items() if math.isfinite(value)}
        tokens = finite.get("tokens")
        log_tokens = None if tokens is None else math.log1p(max(tokens, 0.0))
        for name in _UP:
            if name in self._detectors and name in finite:
                self._observe(name, self._calibration.signals[name].rank(finite[name], log_tokens))
        if "longer" in self._detectors and log_tokens is not None and "bytes_per_token" in finite:
            self._observe("longer", self._calibration.signals["tokens"].rank(log_tokens, None))
            density = self._calibration.signals["bytes_per_token"].rank(finite["bytes_per_token"], log_tokens)
            self._observe("thinner", 1.0 - density)

    def pair(self, standardised: float, satisfaction: float) -> None:
        """One feedback: the reward in standard deviations of the baseline, and the satisfaction."""
        r, s = standardised, satisfaction
        self._pairs = [a + b for a, b in zip(self._pairs, (1.0, r, s, r * r, s * s, r * s), strict=True)]
        if self._pairs[0] < BLOCK:
            return
        z = _fisher_z(self._pairs)
        self._pairs = [0.0] * 6
        if z is not None:  # Fisher (1921): z of n pairs is about normal with variance 1/(n − 3)
            error = math.sqrt(1.0 / (BLOCK - 3) + 1.0 / max(self._calibration.n - 3, 1))
            self._observe("correlation", _phi((self._calibration.fisher_z - z) / error))

    def traffic(self, answers: int, feedbacks: int, departures: int = 0) -> None:
        """So many more answers, feedbacks and departures: a rate of speaking that moves, or people who turn away."""
        self._left(answers, departures)
        if "rate" not in self._detectors:
            return
        self._traffic = [self._traffic[0] + answers, self._traffic[1] + feedbacks]
        answers, feedbacks = self._traffic
        if feedbacks < BLOCK and answers * (self._calibration.rate or 0.0) < BLOCK:
            return
        self._traffic = [0, 0]
        expected = answers * (self._calibration.rate or 0.0)
        z = (feedbacks - expected) / math.sqrt(_OVERDISPERSION * max(expected, 1.0))
        self._observe("rate", abs(2.0 * _phi(z) - 1.0))

    def _left(self, answers: int, departures: int) -> None:
        """Blocks of a hundred answers or more, by the normal approximation; a rate of 0 is taken for one in a block."""
        if "departures" not in self._detectors:
            return
        self._departures = [self._departures[0] + answers, self._departures[1] + departures]
        answers, departures = self._departures
        expected = max(answers * (self._calibration.departures or 0.0), 1.0)
        if answers < 2 * BLOCK or (expected < FEW and departures < 2 * FEW):
            return
        self._departures = [0, 0]
        self._observe("departures", _phi((departures - expected) / math.sqrt(_OVERDISPERSION * expected)))

    def state(self) -> dict[str, Any]:
        """What to remember."""
        statistics = {name: list(detector.statistics) for name, detector in self._detectors.items()}
        return {"statistics": statistics, "pairs": list(self._pairs), "traffic": list(self._traffic),
                "departures": list(self._departures)}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """From what `state` said."""
        for name, values in state["statistics"].items():
            if name in self._detectors:
                self._detectors[name].statistics = list(values)
        self._pairs, self._traffic = list(state["pairs"]), list(state["traffic"])
        self._departures = list(state["departures"])
        self._mean = None


def _fisher_z(sums: list[float]) -> float | None:
    """atanh of the correlation; None where one of the two is constant."""
    n, r, s, rr, ss, rs = sums
    spread = (rr - r * r / n) * (ss - s * s / n)
    if spread <= 1e-12:
        return None
    return math.atanh(min(max((rs - r * s / n) / math.sqrt(spread), -0.999), 0.999))


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
