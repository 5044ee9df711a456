"""Scores of models: calibration, pass@k, strengths from pairwise wins.

ECE: Naeini et al. (2015); equal mass: Nixon et al. (2019). pass@k: Chen et al., "Evaluating large language models
trained on code" (2021), eq. 1. Bradley–Terry by Newman's update, "Efficient computation of rankings from pairwise
comparisons" (JMLR 2023), eq. 17.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from monitors.stats.results import InsufficientData

_MAX_SWEEPS = 10_000
_CONVERGED = 1e-12


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 10, scheme: Literal["width", "mass"] = "width"
) -> float:
    """Σ (n_b/N)|accuracy − confidence| over bins [k/M, (k+1)/M), the last closed; or bins of equal mass.

    confidence in [0, 1] and correct (0 or 1), shape (N,). Raises InsufficientData for N = 0.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if sure.shape != right.shape or sure.ndim != 1 or bins < 1:
        raise ValueError("confidence and correct must be one-dimensional and of the same length")
    if sure.size == 0:
        raise InsufficientData("no answers to be calibrated")
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(right, (0, 1)).all():
        raise ValueError("confidence must lie in [0, 1] and correct be 0 or 1")
    if scheme == "width":
        index = np.minimum((sure * bins).astype(int), bins - 1)
    elif scheme == "mass":
        index = np.empty(sure.size, dtype=int)
        index[np.argsort(sure, kind="stable")] = np.arange(sure.size) * bins // sure.size
    else:
        raise ValueError(f"scheme must be 'width' or 'mass', not {scheme!r}")
    gaps = np.bincount(index, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / sure.size)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is right, from c right ones of n: 1 − Π_{i=n−c+1}^{n}(1 − k/i)."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} from {c} of {n} is not defined")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def bradley_terry(wins: ArrayLike) -> NDArray[np.float64]:
    """Strengths with geometric mean 1; P(i beats j) = s_i / (s_i + s_j). wins[i, j] = times i beat j, shape (n, n).

    Raises InsufficientData unless everybody is connected to everybody by wins in both directions: add ½ win to each
    pair that met, or leave somebody out.
    """
    won = np.asarray(wins, float)
    if won.ndim != 2 or won.shape[0] != won.shape[1] or not np.isfinite(won).all() or (won < 0).any():
        raise ValueError("wins must be a square matrix of counts")
    won = won - np.diag(np.diag(won))
    if connected_components(won > 0, directed=True, connection="strong")[0] != 1:
        raise InsufficientData("the wins do not connect everybody in both directions: add half a win to each pair")
    strength = np.ones(won.shape[0])
    for _ in range(_MAX_SWEEPS):
        total = strength[:, None] + strength[None, :]
        new = (won * strength[None, :] / total).sum(axis=1) / (won.T / total).sum(axis=1)
        new /= math.exp(np.log(new).mean())
        if np.abs(np.log(new / strength)).max() < _CONVERGED:
            return np.asarray(new, dtype=np.float64)
        strength = new
    raise InsufficientData("strengths did not converge: the wins are too lopsided")
