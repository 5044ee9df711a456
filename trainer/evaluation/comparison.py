"""Two stored evaluations side by side: same prompts and seeds, so differences are paired. Pure: bodies in, values out.

Differences are candidate − stable. Holm's correction (1979) says which slices changed at all; a margin is a
non-inferiority question and is asked of every slice at full α (all must hold: intersection–union).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.errors import Conflict
from monitors.stats.multiple import holm
from monitors.stats.paired import PairedDifference, paired_difference, sum_of_differences
from monitors.stats.results import InsufficientData, Interval
from trainer.evaluation.environment import difference
from trainer.suite import MEAN, Metric, split_north_star


@dataclass(frozen=True, slots=True)
class SliceComparison:
    """One slice. `paired` is None where fewer than two prompts have values on both sides."""

    name: str
    candidate: float | None
    stable: float | None
    paired: PairedDifference | None
    dropped: int              # prompts without a value on one side
    margin: float
    changed: bool = False     # significantly, after Holm over slices


@dataclass(frozen=True, slots=True)
class NorthStar:
    """The deciding metric. `difference` and its interval are None where it cannot be computed."""

    name: str
    candidate: float | None
    stable: float | None
    difference: float | None
    interval: Interval | None
    p: float | None           # of the mean of slices there is none: look at the interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two evaluations of one suite say about each other."""

    north_star: NorthStar
    slices: tuple[SliceComparison, ...]
    alpha: float


def compare(candidate: Mapping[str, Any], stable: Mapping[str, Any], alpha: float = 0.05) -> Comparison:
    """Bodies of two evaluations. Raises Conflict, with what changed, unless their frozen environments are the same."""
    if changed := difference(candidate["environment"], stable["environment"]):
        raise Conflict(f"these evaluations cannot be compared: {changed}; evaluate both anew")
    slices = [
        _slice(name, candidate["slices"][name], stable["slices"][name], "pass_at_1", alpha)
        for name in candidate["slices"]
    ]
    return Comparison(_north_star(candidate, stable, slices, alpha), _mark_changed(slices, alpha), alpha)


def _slice(
    name: str, candidate: Mapping[str, Any], stable: Mapping[str, Any], metric: Metric, alpha: float
) -> SliceComparison:
    pairs = []
    for mine, theirs in zip(candidate["values"], stable["values"], strict=True):
        assert mine["id"] == theirs["id"], "equal environments have the same prompts in the same order"
        if mine[metric] is not None and theirs[metric] is not None:
            pairs.append((_clip(mine[metric]), _clip(theirs[metric])))
    dropped = len(candidate["values"]) - len(pairs)
    try:
        samples = candidate["samples"]
        paired = paired_difference([a for a, _ in pairs], [b for _, b in pairs], alpha, samples)
    except InsufficientData:
        paired = None
    return SliceComparison(
        name, _value(candidate[metric]), _value(stable[metric]), paired, dropped, float(candidate["margin"])
    )


def _north_star(
    candidate: Mapping[str, Any], stable: Mapping[str, Any], slices: Sequence[SliceComparison], alpha: float
) -> NorthStar:
    name, metric = split_north_star(candidate["suite"]["north_star"])
    if name != MEAN:
        one = _slice(name, candidate["slices"][name], stable["slices"][name], metric, alpha)
        found = one.paired
        shown = f"{name}.{metric}"
        if found is None:
            return NorthStar(shown, one.candidate, one.stable, None, None, None)
        return NorthStar(shown, one.candidate, one.stable, found.difference, found.interval, found.p)
    parts = [one.paired for one in slices if one.paired is not None]
    sides = [_mean([getattr(one, side) for one in slices]) for side in ("candidate", "stable")]
    if len(parts) < len(slices):  # a slice without data must not be left out of a mean
        return NorthStar(MEAN, sides[0], sides[1], None, None, None)
    centre = sum(part.difference for part in parts) / len(parts)
    return NorthStar(MEAN, sides[0], sides[1], centre, sum_of_differences(parts), None)


def _mark_changed(slices: Sequence[SliceComparison], alpha: float) -> tuple[SliceComparison, ...]:
    tested = {one.name: one.paired.p for one in slices if one.paired is not None and one.paired.p is not None}
    rejected = holm(list(tested.values()), alpha) if tested else ()
    changed = {name for name, hit in zip(tested, rejected, strict=True) if hit}
    return tuple(
        SliceComparison(o.name, o.candidate, o.stable, o.paired, o.dropped, o.margin, o.name in changed) for o in slices
    )


def mean_of_slices(estimates: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """The plain mean of independent estimates, with its interval by square-and-add; None when one is missing."""
    found = [estimate for estimate in estimates if estimate]
    if not found or len(found) < len(estimates):
        return None
    n = len(found)
    value = sum(estimate["value"] for estimate in found) / n
    down = math.hypot(*(estimate["value"] - estimate["lower"] for estimate in found)) / n
    up = math.hypot(*(estimate["upper"] - estimate["value"] for estimate in found)) / n
    return {"value": value, "lower": value - down, "upper": value + up, "n": n}


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _value(estimate: Mapping[str, float] | None) -> float | None:
    return None if estimate is None else estimate["value"]


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None
