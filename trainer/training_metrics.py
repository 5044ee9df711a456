"""A run's numbers as Prometheus reads them: understudy_training_*{run, algorithm}.

A run is no server that waits to be scraped: it writes a file that node_exporter's textfile collector (or anything
else) picks up, metrics.prom in the run directory, and where [health] metrics_port is set also serves /metrics on
127.0.0.1. Names and meanings are those of monitors.conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from adapters.errors import ConfigError
from monitors import conventions as c
from trainer.job import Job
from trainer.session import is_first

FILE = "metrics.prom"

LOGGED: Mapping[str, c.Metric] = {
    "reward": c.TRAINING_REWARD,
    "entropy": c.TRAINING_ENTROPY,
    "completions/mean_length": c.TRAINING_TOKENS,
    "health.zero_variance_ratio": c.TRAINING_ZERO_VARIANCE,
}
"""TRL's name of a number of the training batch → its metric."""

LOOKED: Mapping[str, c.Metric] = {
    "gold": c.TRAINING_GOLD,
    "kl": c.TRAINING_KL,
    "reward": c.TRAINING_REWARD,
    "entropy": c.TRAINING_ENTROPY,
    "completion_tokens": c.TRAINING_TOKENS,
}
"""A look's name → its metric; what the training batch has shown already is not overwritten."""


def metrics_of(job: Job) -> TrainingMetrics:
    """Those of one run; only its first process serves them. Raises ConfigError."""
    port = job.config.health.metrics_port if is_first() else 0
    return TrainingMetrics(job.run.path, run=job.run.name, algorithm=job.algorithm, port=port)


class TrainingMetrics:
    """The gauges of one run. Raises ConfigError when the port is taken."""

    def __init__(self, folder: Path, *, run: str, algorithm: str, port: int = 0) -> None:
        self._file = folder / FILE
        self._labels = (run, algorithm)
        self._registry = CollectorRegistry(auto_describe=False)
        self._gauges: dict[str, Gauge] = {}
        self._batch: set[str] = set()
        self._server: Any = None
        if port:
            try:
                self._server, _ = start_http_server(port, addr="127.0.0.1", registry=self._registry)
            except OSError as error:
                raise ConfigError(f"health.metrics_port {port} cannot be opened: {error.strerror}") from None

    def logged(self, logs: Mapping[str, Any]) -> None:
        """Numbers of the newest training batches, by TRL's names."""
        for name, metric in LOGGED.items():
            if isinstance(logs.get(name), int | float):
                self._batch.add(metric.name)
                self._set(metric, float(logs[name]))
        self._write()

    def looked(self, values: Mapping[str, float]) -> None:
        """Numbers of the newest look at held-out prompts."""
        for name, metric in LOOKED.items():
            if name in values and metric.name not in self._batch:
                self._set(metric, values[name])
        self._write()

    def close(self) -> None:
        """Stop serving; the file stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _set(self, metric: c.Metric, value: float) -> None:
        gauge = self._gauges.get(metric.name)
        if gauge is None:
            gauge = Gauge(metric.full_name, metric.help, metric.labels, registry=self._registry)
            self._gauges[metric.name] = gauge
        gauge.labels(*self._labels).set(value)

    def _write(self) -> None:
        if self._gauges:
            write_to_textfile(str(self._file), self._registry)
