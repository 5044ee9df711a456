"""A judge's calibration set: answers whose scores are known. It shows drift, and how far length alone moves the judge.

A JSON line each: {"prompt": [messages] or text, "completion": text, "expected": 0..1}, further keys are columns.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError, GraderError
from monitors.rewards.types import Sample, Scores

MIN_ROWS = 5
_MOST_MISSING = 0.2    # share of the set that a judge may fail to answer
_EDGE = 0.02           # scores are moved this far from 0 and 1 before their logarithm of odds is taken
_RIDGE = 1.0


@dataclass(frozen=True)
class Calibration:
    """The set. `expected` has one score in 0..1 per sample."""

    samples: tuple[Sample, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """How a judge did on the set."""

    rows: int
    missing: int
    mean_difference: float       # mean of |judge - expected|
    bias: float                  # mean of judge - expected


@dataclass(frozen=True)
class LengthEffect:
    """What length does to a judge's score: log odds per unit of tanh((length - center) / scale), in characters."""

    beta: float = 0.0
    standard_error: float = 0.0
    center: float = 0.0
    scale: float = 1.0

    def corrected(self, score: float, length: float) -> float:
        """The score as it would be at length `center`; in 0..1."""
        if self.beta == 0.0:
            return score
        inner = min(1 - _EDGE, max(_EDGE, score))
        moved = _sigmoid(_logit(inner) - self.beta * math.tanh((length - self.center) / self.scale))
        return min(1.0, max(0.0, score + moved - inner))


def load_calibration(path: Path) -> Calibration:
    """Read the set. Raises ConfigError with file, line and what was expected."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the calibration set {path} cannot be read: {error}") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(rows) < MIN_ROWS:
        raise ConfigError(f"the calibration set {path} has {len(rows)} rows: give at least {MIN_ROWS}")
    return Calibration(tuple(sample for sample, _ in rows), tuple(expected for _, expected in rows))


def drift(scores: Scores, expected: Sequence[float]) -> Drift:
    """Compare a judge's scores with the expected ones. Raises GraderError when too many are missing."""
    pairs = [(score, right) for score, right in zip(scores, expected, strict=True) if score is not None]
    missing = len(scores) - len(pairs)
    if not pairs or missing > _MOST_MISSING * len(scores):
        raise GraderError(f"it answered {len(pairs)} of the {len(scores)} calibration rows with a score")
    differences = [score - right for score, right in pairs]
    return Drift(len(scores), missing, statistics.fmean(map(abs, differences)), statistics.fmean(differences))


def length_effect(scores: Scores, expected: Sequence[float], lengths: Sequence[float], *, center: bool) -> LengthEffect:
    """Fit how length moves the judge beyond what the answers deserve.

    Logistic regression of the judge's score on tanh of the standardised length, as in length-controlled AlpacaEval
    (Dubois et al., 2024, section 3), with the expected score's log odds as offset where that has terms for model and
    instruction, and a ridge of 1. `lengths` are lengths (center: relative to their mean) or differences of lengths to
    the reference (center=False: 0 is neutral).
    """
    kept = [(s, e, n) for s, e, n in zip(scores, expected, lengths, strict=True) if s is not None]
    middle = statistics.fmean(n for *_, n in kept) if center and kept else 0.0
    scale = math.sqrt(statistics.fmean((n - middle) ** 2 for *_, n in kept)) if kept else 0.0
    if scale == 0.0:
        return LengthEffect(center=middle)
    rows = [(s, _logit(min(1 - _EDGE, max(_EDGE, e))), math.tanh((n - middle) / scale)) for s, e, n in kept]
    beta, information = 0.0, _RIDGE
    for _ in range(50):  # Newton's method; the objective is concave
        fitted = [_sigmoid(offset + beta * z) for _, offset, z in rows]
        slope = sum((s - p) * z for (s, _, z), p in zip(rows, fitted, strict=True)) - _RIDGE * beta
        information = sum(p * (1 - p) * z * z for (_, _, z), p in zip(rows, fitted, strict=True)) + _RIDGE
        step = max(-2.0, min(2.0, slope / information))
        beta += step
        if abs(step) < 1e-9:
            break
    return LengthEffect(beta, 1 / math.sqrt(information), middle, scale)


def _row(path: Path, number: int, line: str) -> tuple[Sample, float]:
    where = f"{path}, line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
        raise ConfigError(f'{where}: expected {{"prompt": …, "completion": text, "expected": 0..1}}')
    expected, prompt = row.get("expected"), row.get("prompt")
    if isinstance(expected, bool) or not isinstance(expected, int | float) or not 0 <= expected <= 1:
        raise ConfigError(f"{where}: expected is {expected!r}: give a number from 0 to 1")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ConfigError(f"{where}: prompt is neither a text nor a list of messages")
    columns = {key: value for key, value in row.items() if key not in ("prompt", "completion", "expected")}
    return Sample(tuple(messages), row["completion"], columns), float(expected)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0
