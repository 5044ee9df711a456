"""What the small HTTP services (guard, rewards) count, each in a registry of its own: nothing is at module level."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from monitors.conventions import Metric


class ServiceMetrics:
    """Base of a service's metrics: makes them from the conventions, and writes them out."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)

    def made(self, metric: Metric) -> Any:
        """The prometheus_client object of a convention."""
        name, labels = metric.full_name, metric.labels
        if metric.kind == "histogram":
            return Histogram(name, metric.help, labels, registry=self._registry, buckets=metric.buckets)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(name, metric.help, labels, registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) for a scrape with this Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
