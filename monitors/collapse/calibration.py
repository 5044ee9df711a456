"""What a reward meant on a good version: P(satisfied | reward), and what its answers and its users were like.

Platt, "Probabilistic outputs for support vector machines" (1999), with his smoothed targets; isotonic regression by
pooling adjacent violators (Zadrozny & Elkan, KDD 2002). Frozen once fitted.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitors.stats.results import InsufficientData

MINIMUM = 2000         # feedbacks
_POINTS = 400          # order statistics that a signal's distribution is kept as
_SPREAD = 1e-9
_OF_LENGTH = ("compression_ratio", "bytes_per_token")  # zlib finds more to save in a longer text

Method = Literal["platt", "isotonic"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reference:
    """The distribution of one signal of the baseline's texts, as sorted values with the effect of length taken out."""

    points: tuple[float, ...]
    slope: float = 0.0                 # per unit of log tokens
    center: float = 0.0                # mean log tokens

    def rank(self, value: float, log_tokens: float | None) -> float:
        """Share of the baseline below `value`, ties counting half; in [0, 1], with mean ½ where nothing changed."""
        moved = value if log_tokens is None else value - self.slope * (log_tokens - self.center)
        below, upto = bisect.bisect_left(self.points, moved), bisect.bisect_right(self.points, moved)
        return (below + upto) / (2 * len(self.points))


@dataclass(frozen=True, slots=True)
class Calibration:
    """A frozen baseline. Rewards on the grader's scale, satisfaction in [0, 1].

    `curve`: for "platt" ((intercept, slope),) on standardised rewards, for "isotonic" the corners (reward, q).
    """

    method: Method
    curve: tuple[tuple[float, float], ...]
    n: int
    satisfaction: float                # mean of the baseline
    reward: float                      # mean …
    reward_sd: float                   # … and standard deviation
    lowest: float                      # rewards beyond what the baseline has seen are taken for its ends
    highest: float
    fisher_z: float                    # atanh of the correlation of reward and satisfaction
    signals: Mapping[str, Reference] = field(default_factory=dict)
    rate: float | None = None          # feedbacks per answer; None: not known
    departures: float | None = None    # answers that were regenerated, edited, abandoned, per answer; None: not known

    def predict(self, reward: float) -> float:
        """q = P(satisfied | reward). Raises ValueError for a reward that is not finite."""
        if not math.isfinite(reward):
            raise ValueError(f"a reward must be finite, not {reward}")
        r = min(max(reward, self.lowest), self.highest)
        if self.method == "platt":
            intercept, slope = self.curve[0]
            return 1.0 / (1.0 + math.exp(-(intercept + slope * self.standardised(r))))
        place = bisect.bisect_right(self.curve, (r, math.inf))
        if place == 0 or place == len(self.curve):
            return self.curve[min(place, len(self.curve) - 1)][1]
        (x0, y0), (x1, y1) = self.curve[place - 1], self.curve[place]
        return y0 if x1 == x0 else y0 + (y1 - y0) * (r - x0) / (x1 - x0)

    def standardised(self, reward: float) -> float:
        """In standard deviations of the baseline from its mean."""
        return (reward - self.reward) / self.reward_sd

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; floats come back bit for bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Calibration:
        """Inverse. Raises TypeError or KeyError for anything else."""
        signals = {
            name: Reference(tuple(one["points"]), one["slope"], one["center"]) for name, one in body["signals"].items()
        }
        curve = tuple((float(x), float(y)) for x, y in body["curve"])
        return cls(**{**body, "curve": curve, "signals": signals})


def fit(
    rewards: ArrayLike,
    satisfactions: ArrayLike,
    *,
    signals: Mapping[str, Sequence[float | None]] | None = None,
    rate: float | None = None,
    departures: float | None = None,
    method: Method = "platt",
    minimum: int = MINIMUM,
) -> Calibration:
    """Calibrate on a baseline: rewards and satisfactions of the same answers, shape (N,), N ≥ `minimum`.

    `signals`: name → N values (None where an answer has none), see corroborators.SIGNALS; `rate`, `departures`:
    feedbacks, and answers that were regenerated, edited or abandoned, per answer. Raises InsufficientData for fewer
    than `minimum` feedbacks, a constant reward or constant satisfaction; ValueError for values that are not finite or
    not in range.
    """
    r, s = np.asarray(rewards, dtype=np.float64), np.asarray(satisfactions, dtype=np.float64)
    if r.shape != s.shape or r.ndim != 1:
        raise ValueError("rewards and satisfactions must be lists of the same length")
    if not (np.isfinite(r).all() and np.isfinite(s).all() and (s >= 0).all() and (s <= 1).all()):
        raise ValueError("rewards must be finite and satisfactions between 0 and 1")
    if len(r) < max(minimum, 2):
        raise InsufficientData(f"{len(r)} feedbacks with a reward, {minimum} are needed to calibrate on")
    sd = float(r.std(ddof=1))
    if sd < _SPREAD or float(s.std()) < _SPREAD:
        what = "reward" if sd < _SPREAD else "satisfaction"
        raise InsufficientData(f"the {what} of all {len(r)} feedbacks is the same: nothing can be calibrated on it")
    mean = float(r.mean())
    curve = _platt((r - mean) / sd, s) if method == "platt" else _isotonic(r, s)
    correlation = float(np.clip(np.corrcoef(r, s)[0, 1], -0.999, 0.999))
    return Calibration(
        method, curve, len(r), float(s.mean()), mean, sd, float(r.min()), float(r.max()), math.atanh(correlation),
        _references(signals or {}), rate, departures,
    )  # fmt: skip


def _platt(z: Floats, s: Floats) -> tuple[tuple[float, float], ...]:
    """(intercept, slope) of the logistic regression of s on z by Newton's method, with a slight ridge on the slope.

    The targets move towards ½ as Platt's do, so that separable baselines keep finite coefficients.
    """
    up, down = float(s.sum()), float((1 - s).sum())
    targets = s * (up + 1) / (up + 2) + (1 - s) / (down + 2)
    design = np.column_stack([np.ones_like(z), z])
    ridge = np.diag([0.0, 1e-3])
    coefficients = np.array([math.log((up + 1) / (down + 1)), 0.0])
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (targets - p) - ridge @ coefficients
        information = design.T @ (design * (p * (1 - p))[:, None]) + ridge + 1e-9 * np.eye(2)
        step = np.clip(np.linalg.solve(information, gradient), -2.0, 2.0)
        coefficients = coefficients + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return ((float(coefficients[0]), float(coefficients[1])),)


def _isotonic(r: Floats, s: Floats) -> tuple[tuple[float, float], ...]:
    """Corners of the isotonic regression of s on r, ties of r pooled; between corners it is interpolated."""
    from scipy.optimize import isotonic_regression

    values, place, counts = np.unique(r, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=s) / counts
    fitted = isotonic_regression(means, weights=counts.astype(np.float64)).x
    corner = np.ones(len(values), dtype=bool)
    corner[1:-1] = (np.diff(fitted)[:-1] != 0) | (np.diff(fitted)[1:] != 0)
    return tuple((float(x), float(y)) for x, y in zip(values[corner], fitted[corner], strict=True))


def _references(signals: Mapping[str, Sequence[float | None]]) -> dict[str, Reference]:
    """Signals that at least half of the answers have; those of _OF_LENGTH freed of its (linear) effect.

    Not so shares of repeated n-grams: mostly 0, any slope would break their ties by length alone.
    """
    tokens = _column(signals.get("tokens", ()))
    logs = np.log1p(np.maximum(tokens, 0.0))
    found = {}
    for name, raw in signals.items():
        values = logs if name == "tokens" else _column(raw)
        there = np.isfinite(values)
        if 2 * int(there.sum()) < max(len(values), 2):
            continue
        slope = center = 0.0
        if name in _OF_LENGTH and len(logs) == len(values):
            both = there & np.isfinite(logs)
            center = float(logs[both].mean()) if both.any() else 0.0
            variance = float(logs[both].var()) if both.any() else 0.0
            if variance > _SPREAD:
                slope = float(np.mean((logs[both] - center) * values[both]) / variance)
            values = np.where(both, values - slope * (logs - center), values)
        found[name] = Reference(_points(values[there]), slope, center)
    return found


def _points(values: Floats) -> tuple[float, ...]:
    """At most _POINTS order statistics at equal distances."""
    ordered = np.sort(values)
    if len(ordered) > _POINTS:
        ordered = ordered[np.floor((np.arange(_POINTS) + 0.5) * len(ordered) / _POINTS).astype(int)]
    return tuple(map(float, ordered))


def _column(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
