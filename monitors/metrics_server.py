"""The metrics of all processes of this host as Prometheus reads them: a collector, and a small private server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from adapters.errors import ConfigError, UnderstudyError
from monitors.conventions import Metric
from monitors.merged_values import Series, merge


class MetricsCollector(Collector):
    """Merges the values files in `directory` at every scrape."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Family]:
        """One family per metric that has series."""
        for metric, series in merge(self._directory):
            yield _family(metric, series)


def _family(metric: Metric, series: list[Series]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, values in series:
            counts = accumulate(values[:-1])
            histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), values[-1])
        return histogram
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = made(metric.full_name, metric.help, labels=metric.labels)
    for labels, values in series:
        family.add_metric(labels, values[0])
    return family


def exposition(directory: Path, accept: str = "") -> tuple[bytes, str]:
    """(body, content type) for a scrape with this Accept header. Raises UnderstudyError."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(directory))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class MetricsServer:
    """`/metrics` and `/healthz` on 127.0.0.1, from a thread. Port 0 takes a free one. Raises ConfigError."""

    def __init__(self, directory: Path, port: int) -> None:
        class Handler(_Handler):
            values = directory

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            message = f"port {port} for metrics cannot be opened: {error.strerror}; set gateway.metrics_port"
            raise ConfigError(message) from None
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def start_metrics_server(directory: Path, port: int) -> MetricsServer:
    """Serve the metrics in `directory`; see MetricsServer."""
    return MetricsServer(directory, port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that went away is not news; without this it is a traceback."""


class _Handler(BaseHTTPRequestHandler):
    values: Path
    timeout = 10                   # seconds a client may take to send its request
    server_version = "understudy"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a scrape or a health check."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._send(200, b"ok\n", "text/plain; charset=utf-8")
        elif path == "/metrics":
            try:
                self._send(200, *exposition(self.values, self.headers.get("Accept", "")))
            except UnderstudyError as error:
                self._send(503, f"{error}\n".encode(), "text/plain; charset=utf-8")
        else:
            self._send(404, b"there are /metrics and /healthz\n", "text/plain; charset=utf-8")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
