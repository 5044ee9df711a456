"""What the scoring service counts, in a registry of its own: nothing is at module level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from monitors import conventions
from monitors.conventions import Metric


class ScoringMetrics:
    """Samples by grader and outcome, the time a batch takes, and what waits."""

    def __init__(self, graders: Sequence[str]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._samples = self._made(conventions.SCORING_SAMPLES)
        self._duration = self._made(conventions.SCORING_DURATION)
        self._waiting = self._made(conventions.SCORING_WAITING)
        self._refused = self._made(conventions.SCORING_REFUSED)
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

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) for a scrape with this Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _made(self, metric: Metric) -> Any:
        """The prometheus_client object of a convention."""
        name, labels = metric.full_name, metric.labels
        if metric.kind == "histogram":
            return Histogram(name, metric.help, labels, registry=self._registry, buckets=metric.buckets)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(name, metric.help, labels, registry=self._registry)
