"""The graders of a run: what is trained on, what is only measured, and whether they can score at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.errors import TrainingError
from monitors.rewards.build import build_graders, prepare
from monitors.rewards.composite import Composite
from monitors.rewards.stored import version_finder
from monitors.rewards.types import FindVersion, Grader, StoredVersion
from trainer.health import Row, say
from trainer.installation import Installation, artifact_store, open_registry
from trainer.job import Job
from trainer.reward_function import rows_as_samples, scores
from trainer.session import is_first

PROBED_ROWS = 4
"""Rows whose rewards are asked for before anything is loaded."""


@dataclass(frozen=True)
class Rewards:
    """What is trained on, and what is only measured (None: nothing is)."""

    reward: Composite
    gold: Composite | None

    def prints(self) -> dict[str, str]:
        """Fingerprints, for the lineage."""
        found = {"reward": self.reward.fingerprint}
        return found | {"gold": self.gold.fingerprint} if self.gold else found


def build_rewards(job: Job) -> Rewards:
    """The graders of the run, ready: weights loaded, judges checked, and a first score seen from each.

    Raises ConfigError, GraderError, GraderUnavailable, and TrainingError when no probed row can be scored.
    """
    specs = job.config.reward
    graders = build_graders(specs, job.folder, find_version=stored_version(job.installation))
    reward = Composite(graders, specs, "reward")
    gold_specs = [spec.model_copy(update={"gold": False}) for spec in specs if spec.gold]
    golds = [grader for grader, spec in zip(graders, specs, strict=True) if spec.gold]
    gold = Composite(golds, gold_specs, "gold") if golds else None
    prepare(graders)
    if is_first():
        for warning in reward.warnings:
            say(warning)
        _probe(reward, job.rows, "data.train")
        if gold is not None:
            _probe(gold, job.held_out or job.rows, "data.eval" if job.held_out else "data.train")
    return Rewards(reward, gold)


def _probe(grader: Grader, rows: Sequence[Row], where: str) -> None:
    """Scores an empty answer to the first rows: a column that is missing, or a judge that is away, shows here."""
    probed = rows[:PROBED_ROWS]
    found = scores(grader, list(rows_as_samples(probed, [""] * len(probed))), where="before the run")
    if found and all(score is None for score in found):
        columns = ", ".join(sorted(set(probed[0]) - {"prompt"})) or "none"
        raise TrainingError(
            f"{grader.name} cannot score the first rows of {where}: a required score is missing "
            f"(columns there: {columns})"
        )


def stored_version(installation: Installation) -> FindVersion:
    """Finds a registered version, for reward models; the registry is opened for it. Raises NotFound, ArtifactError."""

    def find(version: str) -> StoredVersion:
        with open_registry(installation) as registry:
            return version_finder(registry, artifact_store(installation))(version)

    return find
