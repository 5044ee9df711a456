"""Several graders of the same thing, combined against over-optimisation: what fools one should not fool all.

"min" is worst-case optimisation, and "pessimistic" a lower bound, mean − k · standard deviation: Coste et al., "Reward
Model Ensembles Help Mitigate Overoptimization" (ICLR 2024), section 3.2 (which subtracts the variance).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from adapters.settings import Section
from monitors.rewards.composite import scored
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Grader, Place, Preparable, Sample, Scores, fingerprint

_VERSION = 1
Combine = Literal["mean", "min", "pessimistic"]


class EnsembleOptions(Section):
    """Options of "ensemble"."""

    members: tuple[RewardSpec, ...] = Field(min_length=2, description="two or more tables like [[reward]]")
    combine: Combine = Field("pessimistic", description="how the members' scores become one")
    k: float = Field(1.0, ge=0, allow_inf_nan=False, description="pessimistic: standard deviations below the mean")


class Ensemble:
    """One score from several members; None where a required member's is missing."""

    Options = EnsembleOptions

    def __init__(self, name: str, options: EnsembleOptions, place: Place) -> None:
        from monitors.rewards.build import build_graders

        self.name = name
        self._options = options
        self._members = build_graders(options.members, place.base_dir, find_version=place.find_version)

    @property
    def fingerprint(self) -> str:
        """Digest of the members and of how they are combined."""
        members = [[member.fingerprint, spec.required] for member, spec in self._pairs()]
        return fingerprint("ensemble", _VERSION, members=members, combine=self._options.combine, k=self._options.k)

    def prepare(self) -> None:
        """Prepare every member. Raises GraderUnavailable and GraderError."""
        for member in self._members:
            if isinstance(member, Preparable):
                member.prepare()

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader."""
        columns = [(scored(member, samples), spec.required) for member, spec in self._pairs()]
        result: Scores = []
        for place in range(len(samples)):
            values = [scores[place] for scores, _ in columns]
            missing = any(value is None and required for value, (_, required) in zip(values, columns, strict=True))
            present = [value for value in values if value is not None]
            result.append(None if missing or not present else combine(present, self._options.combine, self._options.k))
        return result

    def _pairs(self) -> list[tuple[Grader, RewardSpec]]:
        return list(zip(self._members, self._options.members, strict=True))


def combine(values: Sequence[float], how: Combine, k: float = 1.0) -> float:
    """One score in 0..1 from one or more. The standard deviation is the population's; the bound is cut off at 0."""
    if how == "min":
        return min(values)
    mean = statistics.fmean(values)
    return mean if how == "mean" else max(0.0, mean - k * statistics.pstdev(values))
