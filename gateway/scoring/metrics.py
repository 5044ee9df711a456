"""What the scoring service counts."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.service_metrics import ServiceMetrics
from monitors import conventions


class ScoringMetrics(ServiceMetrics):
    """Samples by grader and outcome, the time a batch takes, and what waits."""

    def __init__(self, graders: Sequence[str]) -> None:
        super().__init__()
        self._samples = self.made(conventions.SCORING_SAMPLES)
        self._duration = self.made(conventions.SCORING_DURATION)
        self._waiting = self.made(conventions.SCORING_WAITING)
        self._refused = self.made(conventions.SCORING_REFUSED)
        for grader in graders:  # series exist from the start: a rate needs a first 0
            for outcome in ("scored", "missing", "failed"):
                self._samples.labels(grader, outcome)

    def observe(self, grader: str, scores: Sequence[float | None], failed: int, seconds: float) -> None:
        """One batch of one grader; `failed` of its missing scores are failures of the grader."""
        self.count(grader, scores, failed)
        self._duration.labels(grader).observe(seconds)

    def count(self, grader: str, scores: Sequence[float | None], failed: int = 0) -> None:
        """Scores that went out."""
        missing = sum(score is None for score in scores)
        self._samples.labels(grader, "scored").inc(len(scores) - missing)
        self._samples.labels(grader, "missing").inc(missing - failed)
        self._samples.labels(grader, "failed").inc(failed)

    def waiting(self, samples: int) -> None:
        """How many samples wait or are being scored now."""
        self._waiting.set(samples)

    def refused(self) -> None:
        """One request was answered with 503."""
        self._refused.inc()
