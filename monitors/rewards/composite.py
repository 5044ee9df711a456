"""Several graders as one reward: the weighted mean, with a dominant term and with missing parts kept apart.

One term should hold over half the weight, usually the verifier of correctness: even with .6 correct + .4 helpfulness,
padding pays where the answer is not known (docs/rewards.md). Less is allowed, and warned about.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters.errors import ConfigError, GraderError, UnderstudyError
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Grader, Preparable, Sample, Scores, fingerprint

_VERSION = 1

log = logging.getLogger("understudy.rewards")


@dataclass(frozen=True)
class Graded:
    """The composite's scores and what they are made of; each list has one entry per sample."""

    total: Scores
    parts: Mapping[str, Scores]      # by grader; gold graders are not in here


class Composite:
    """The weighted mean of the graders that are not gold. `warnings` are for people, before a run starts.

    A sample whose required part is missing has no reward (None, never 0). An optional part that is missing leaves the
    other weights to share. Raises ConfigError when nothing is left to be weighed.
    """

    def __init__(self, graders: Sequence[Grader], specs: Sequence[RewardSpec], name: str = "composite") -> None:
        pairs = [(g, s) for g, s in zip(graders, specs, strict=True) if not s.gold]
        total = sum(spec.weight for _, spec in pairs)
        if not pairs:
            raise ConfigError("there is no reward to train on: every [[reward]] is gold")
        if not total > 0:
            raise ConfigError("the weights of the rewards are all 0: give at least one a weight")
        self.name = name
        self._parts = tuple((grader, spec.weight / total, spec.required) for grader, spec in pairs if spec.weight > 0)
        self.warnings = _warnings(self.weights)

    @property
    def weights(self) -> dict[str, float]:
        """Share of each grader; they add up to 1."""
        return {grader.name: weight for grader, weight, _ in self._parts}

    @property
    def fingerprint(self) -> str:
        """Digest of the parts, their weights and which of them are required."""
        parts = [[grader.name, grader.fingerprint, weight, required] for grader, weight, required in self._parts]
        return fingerprint("composite", _VERSION, parts=parts)

    def prepare(self) -> None:
        """Prepare every part. Raises GraderUnavailable and GraderError."""
        for grader, _, _ in self._parts:
            if isinstance(grader, Preparable):
                grader.prepare()

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader."""
        return self.graded(samples).total

    def graded(self, samples: Sequence[Sample]) -> Graded:
        """The totals and the parts. Raises GraderError when a part is broken."""
        parts = {grader.name: scored(grader, samples) for grader, _, _ in self._parts}
        rows = ({name: scores[place] for name, scores in parts.items()} for place in range(len(samples)))
        return Graded([self.combine(row) for row in rows], parts)

    def combine(self, scores: Mapping[str, float | None]) -> float | None:
        """One sample's reward from its scores by grader."""
        weighed, held = 0.0, 0.0
        for grader, weight, required in self._parts:
            value = scores[grader.name]
            if value is not None:
                weighed, held = weighed + weight * value, held + weight
            elif required:
                return None
        return weighed / held if held > 0 else None


def scored(grader: Grader, samples: Sequence[Sample]) -> Scores:
    """`grader.score`, with every failure turned into a GraderError that names the grader."""
    try:
        scores = grader.score(samples)
    except UnderstudyError:
        raise
    except Exception as error:  # a grader must not end a run with a traceback, whatever is wrong with it
        log.exception("grader %s failed", grader.name)
        raise GraderError(f"reward {grader.name!r} raised {type(error).__name__}: {error}") from error
    if len(scores) != len(samples):
        raise GraderError(f"reward {grader.name!r} gave {len(scores)} scores for {len(samples)} samples")
    return scores


def _warnings(weights: Mapping[str, float]) -> tuple[str, ...]:
    name, share = max(weights.items(), key=lambda item: item[1])
    if len(weights) == 1 or share > 0.5:
        return ()
    return (
        f"the largest reward, {name!r}, holds {share:.0%} of the weight: let one term, usually correctness, hold more "
        "than half, or the others can be traded against it",
    )
