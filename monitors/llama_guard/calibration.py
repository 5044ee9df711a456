"""From labelled texts to a threshold with a wanted false-positive rate, and a temperature that makes scores honest.

The threshold is conformal: with n benign scores that are exchangeable with those to come, the k-th smallest,
k = ⌈(n + 1)(1 − f)⌉, is exceeded by a new benign text with probability at most f, over the draw of both (Vovk et al.,
"Algorithmic Learning in a Random World", 2005; Angelopoulos and Bates, arXiv:2107.07511, section 1). Given these n, the
rate is Beta(n + 1 − k, k) distributed if scores have no ties (same, section 3.2): that is the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from monitors.llama_guard.judge import probability
from monitors.stats.results import InsufficientData, Interval
from monitors.stats.scores import expected_calibration_error

_TEMPERATURES = (0.05, 50.0)


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram: mean score, share that is unsafe with its 95 % interval, and how many."""

    score: float
    unsafe: float
    interval: Interval
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` found. Scores are calibrated probabilities, 0..1; a text is unsafe above `threshold`."""

    benign: int
    unsafe: int
    wanted_fpr: float
    threshold: float
    threshold_interval: Interval
    expected_fpr: float
    fpr_interval: Interval
    measured_fpr: float
    recall: float
    recall_interval: Interval
    temperature: float
    ece_before: float
    ece_after: float
    reliability: tuple[Bin, ...]


def calibrate(margins: ArrayLike, unsafe: ArrayLike, fpr: float, confidence: float = 0.95) -> Calibration:
    """Threshold, temperature and reliability from margins (log odds of unsafe, shape (N,)) and labels (0 or 1).

    Raises InsufficientData for too few benign texts, with the number that is needed, or for no unsafe one.
    """
    x, y = np.asarray(margins, float), np.asarray(unsafe, float)
    if x.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all() or not np.isin(y, (0, 1)).all():
        raise ValueError("margins must be finite and unsafe 0 or 1, of the same length")
    benign, bad = int((y == 0).sum()), int((y == 1).sum())
    conformal_rank(benign, fpr)  # first, because it says how many are needed
    if not bad:
        raise InsufficientData("no row is labelled unsafe: nothing can be said about what would be caught")
    temperature = fit_temperature(x, y)
    scores = probabilities(x, temperature)
    safe_scores = np.sort(scores[y == 0])
    rank = conformal_rank(benign, fpr)
    threshold = float(safe_scores[rank - 1])
    caught = int((scores[y == 1] > threshold).sum())
    tail = (1 - confidence) / 2
    low, high = (float(beta.ppf(share, benign + 1 - rank, rank)) for share in (tail, 1 - tail))
    return Calibration(
        benign, bad, fpr, threshold, quantile_interval(safe_scores, 1 - fpr, confidence),
        (benign + 1 - rank) / (benign + 1), Interval(low, high), float((safe_scores > threshold).mean()),
        caught / bad, clopper_pearson(caught, bad, confidence), temperature,
        expected_calibration_error(probabilities(x, 1.0), y), cross_fitted_error(x, y), tuple(reliability(scores, y)),
    )  # fmt: skip


def conformal_rank(benign: int, fpr: float) -> int:
    """k = ⌈(n + 1)(1 − f)⌉, from 1 to n. Raises InsufficientData when k > n: n ≥ 1/f − 1 is needed."""
    if not 0 < fpr < 1:
        raise ValueError(f"the false-positive rate must lie between 0 and 1, not {fpr}")
    rank = max(1, math.ceil((benign + 1) * (1 - fpr) - 1e-9))
    if rank > benign:
        needed = math.ceil(1 / fpr - 1 - 1e-9)
        raise InsufficientData(
            f"a false-positive rate of {fpr:g} needs at least {needed} benign texts, there are {benign}: label more, "
            "or allow a higher rate"
        )
    return rank


def conformal_threshold(benign_scores: Sequence[float], fpr: float) -> float:
    """The k-th smallest benign score: a new benign text scores above it with probability at most `fpr`."""
    ordered = sorted(benign_scores)
    return ordered[conformal_rank(len(ordered), fpr) - 1]


def fit_temperature(margins: NDArray[np.float64], unsafe: NDArray[np.float64]) -> float:
    """The T that minimises the mean of −log P(label) with P(unsafe) = 1/(1 + e^(−margin/T)), within 0.05..50.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2, for two classes.
    """
    signed = np.where(unsafe == 1, margins, -margins)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, -signed / math.exp(log_t)).mean())

    bounds = tuple(math.log(t) for t in _TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def probabilities(margins: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """P(unsafe) from margins, shape (N,): to the last bit what the service will say."""
    return np.array([probability(margin, temperature) for margin in margins])


def cross_fitted_error(margins: NDArray[np.float64], unsafe: NDArray[np.float64]) -> float:
    """ECE with the temperature of the other half: what fits its own data looks better than it is."""
    scores = np.empty_like(margins)
    order = np.argsort(unsafe, kind="stable")  # both halves get their share of either label
    for half in (order[::2], order[1::2]):
        other = np.setdiff1d(order, half)
        usable = len(set(unsafe[other])) == 2
        scores[half] = probabilities(margins[half], fit_temperature(margins[other], unsafe[other]) if usable else 1.0)
    return expected_calibration_error(scores, unsafe)


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(low, high)


def quantile_interval(ordered: NDArray[np.float64], share: float, confidence: float = 0.95) -> Interval:
    """Distribution-free interval of a quantile from order statistics; infinite where n is too small for a bound.

    Source: David and Nagaraja, Order Statistics (2003), section 7.1. P(X_(r) ≤ q) = P(Beta(r, n − r + 1) ≤ share).
    """
    n, tail = len(ordered), (1 - confidence) / 2
    ranks = np.arange(1, n + 1)
    below = beta.cdf(share, ranks, n - ranks + 1)  # P(X_(r) ≤ q), decreasing in r
    lower, upper = ranks[below >= 1 - tail], ranks[below <= tail]
    return Interval(
        float(ordered[lower[-1] - 1]) if lower.size else -math.inf,
        float(ordered[upper[0] - 1]) if upper.size else math.inf,
    )


def reliability(scores: NDArray[np.float64], unsafe: NDArray[np.float64], bins: int = 10) -> list[Bin]:
    """Bins of equal width that have anything in them."""
    index = np.minimum((scores * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        chosen = index == number
        if count := int(chosen.sum()):
            bad = int(unsafe[chosen].sum())
            found.append(Bin(float(scores[chosen].mean()), bad / count, clopper_pearson(bad, count), count))
    return found
