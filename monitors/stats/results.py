"""What the statistics return, and the one error they raise for lack of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from adapters.errors import UnderstudyError


class InsufficientData(UnderstudyError):
    """The data do not determine the quantity: too few, all equal, or not connected. Never a verdict."""


class Interval(NamedTuple):
    """A confidence interval or set; infinite where there is no bound."""

    lower: float
    upper: float


class ZTest(NamedTuple):
    """A standardised statistic and its p-value."""

    z: float
    p: float


@dataclass(frozen=True, slots=True)
class Difference:
    """An estimated difference (first minus second) with its standard error, interval and two-sided p-value."""

    difference: float
    standard_error: float
    interval: Interval
    p: float
    degrees_of_freedom: float


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A covariate-adjusted difference of means, group 1 minus group 0."""

    theta: float  # the coefficient of the covariate
    difference: float
    standard_error: float
    variance_reduction: float  # share of the outcome's variance that the covariate explains, 0..1


class Ratio(NamedTuple):
    """A ratio of sums over units with its delta-method standard error."""

    ratio: float
    standard_error: float


def require_probability(value: float, name: str) -> float:
    """`value` if it lies strictly between 0 and 1, else ValueError."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value


def require_counts(successes: float, trials: float) -> None:
    """ValueError unless 0 ≤ successes ≤ trials; InsufficientData when there were no trials."""
    if trials <= 0:
        raise InsufficientData("no trials in one of the groups")
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")
