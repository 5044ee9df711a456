"""What the guard service counts, in a registry of its own: nothing is at module level."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from monitors import conventions
from monitors.conventions import Metric
from monitors.llama_guard.types import Result

ROLES = ("user", "assistant")


class GuardMetrics:
    """Verdicts by role, time of requests and passes, sizes of passes, what waits and what was refused."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._verdicts = self._made(conventions.GUARD_VERDICTS)
        self._duration = self._made(conventions.GUARD_DURATION)
        self._passes = self._made(conventions.GUARD_PASS_DURATION)
        self._batch = self._made(conventions.GUARD_BATCH)
        self._waiting = self._made(conventions.GUARD_WAITING)
        self._refused = self._made(conventions.GUARD_REFUSED)
        for role in ROLES:  # series exist from the start: a rate needs a first 0
            for verdict in ("safe", "unsafe", "unavailable"):
                self._verdicts.labels(role, verdict)

    def judged(self, role: str, result: Result) -> None:
        """One result that went out."""
        self._verdicts.labels(role, result.verdict).inc()

    def took(self, seconds: float) -> None:
        """One request, from its last byte in to its result."""
        self._duration.observe(seconds)

    def passed(self, prompts: int, seconds: float) -> None:
        """One pass over a batch; called from the back end's thread."""
        self._batch.observe(prompts)
        self._passes.observe(seconds)

    def waiting(self, prompts: int) -> None:
        """How many prompts wait now."""
        self._waiting.set(prompts)

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
