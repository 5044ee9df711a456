"""Several hypotheses at once. Holm (1979); Benjamini & Hochberg (1995); e-BH: Wang & Ramdas (JRSS-B 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitors.stats.results import require_probability

Booleans = NDArray[np.bool_]


def holm(p: ArrayLike, alpha: float = 0.05) -> Booleans:
    """Which hypotheses to reject with family-wise error ≤ α. Shape of p, any dependence."""
    values = _probabilities(p, alpha)
    order = np.argsort(values, kind="stable")
    passes = values[order] <= alpha / np.arange(values.size, 0, -1)
    count = values.size if passes.all() else int(np.argmin(passes))
    return _first(order, count)


def benjamini_hochberg(p: ArrayLike, alpha: float = 0.05) -> Booleans:
    """Which to reject with false discovery rate ≤ α, for independent or positively dependent p. Shape of p."""
    values = _probabilities(p, alpha)
    order = np.argsort(values, kind="stable")
    passes = np.flatnonzero(values[order] <= alpha * np.arange(1, values.size + 1) / values.size)
    return _first(order, int(passes[-1]) + 1 if passes.size else 0)


def e_benjamini_hochberg(e: ArrayLike, alpha: float = 0.05) -> Booleans:
    """Which to reject with false discovery rate ≤ α under any dependence: the largest k with k·e₍ₖ₎/K ≥ 1/α."""
    values = np.asarray(e, float)
    require_probability(alpha, "alpha")
    if values.ndim != 1 or np.isnan(values).any() or (values < 0).any():
        raise ValueError("e-values must be one-dimensional and not negative")
    order = np.argsort(-values, kind="stable")
    passes = np.flatnonzero(values[order] * np.arange(1, values.size + 1) / max(values.size, 1) >= 1 / alpha)
    return _first(order, int(passes[-1]) + 1 if passes.size else 0)


def _first(order: NDArray[np.intp], count: int) -> Booleans:
    rejected = np.zeros(order.size, dtype=np.bool_)
    rejected[order[:count]] = True
    return rejected


def _probabilities(p: ArrayLike, alpha: float) -> NDArray[np.float64]:
    values = np.asarray(p, float)
    require_probability(alpha, "alpha")
    if values.ndim != 1 or np.isnan(values).any() or (values < 0).any() or (values > 1).any():
        raise ValueError("p-values must be one-dimensional and lie in [0, 1]")
    return values
