import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from adapters.errors import ConfigError, UnderstudyError
from monitors import conventions as c
from monitors import merged_values
from monitors.metrics import Recorder
from monitors.metrics_server import MetricsServer, exposition, start_metrics_server
from monitors.shared_values import SharedValues
from tests.support.python import start_python
from tests.support.waiting import PATIENCE

HOSTILE = 'a"b\\c\nd{}=,#é💥'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Every metric with one series, whose label values are as odd as can be."""
    values = SharedValues(tmp_path)
    for metric in c.METRICS:
        labels = [f"{HOSTILE}{name}" for name in metric.labels]
        getattr(values, metric.kind)(metric, *labels)
        if metric.kind == "counter":
            values.counter(metric, *labels).inc(3)
        elif metric.kind == "gauge":
            values.gauge(metric, *labels).set(0.25)
        else:
            values.histogram(metric, *labels).observe(0.5)
    Recorder(values).child("support", "support@0123456789ab", "stable", "chat")
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[MetricsServer]:
    server = start_metrics_server(directory, 0)
    yield server
    server.close()


def get(server: MetricsServer, path: str, **headers: str) -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_prometheus_text_has_every_metric_with_the_same_values(server: MetricsServer) -> None:
    status, content_type, text = get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in parse_text(text) for s in family.samples}
    for metric in c.METRICS:
        labels = frozenset((name, f"{HOSTILE}{name}") for name in metric.labels)
        if metric.kind == "histogram":
            assert samples[metric.full_name + "_count", labels] == 1
            assert samples[metric.full_name + "_sum", labels] == 0.5
            assert samples[metric.full_name + "_bucket", labels | {("le", "+Inf")}] == 1
        elif metric.merge != "age":
            assert samples[metric.full_name, labels] == (3 if metric.kind == "counter" else 0.25)


def test_openmetrics_when_asked(server: MetricsServer) -> None:
    status, content_type, text = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(text)}
    assert names == {metric.full_name.removesuffix("_total") for metric in c.METRICS}


@pytest.mark.needs("prometheus")
def test_prometheus_own_linter_has_nothing_to_say(server: MetricsServer) -> None:
    """promtool comes with the prometheus package."""
    text = get(server, "/metrics")[2]
    command = ["promtool", "check", "metrics"]
    linted = subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_health_and_unknown_paths(server: MetricsServer) -> None:
    assert get(server, "/healthz")[::2] == (200, "ok\n")
    assert get(server, "/healthz?x=1")[0] == 200
    assert get(server, "/metrics?name[]=x")[0] == 200
    assert get(server, "/")[0] == 404
    assert get(server, "/../etc/passwd")[0] == 404


def test_unreadable_metrics_are_a_503_that_says_why(server: MetricsServer, directory: Path) -> None:
    (directory / "readers.lock").mkdir()
    status, _, text = get(server, "/metrics")
    assert status == 503
    assert "metrics cannot be read from" in text


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_stuck_reader_is_reported_and_a_killed_one_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SharedValues(tmp_path).counter(c.FAILOVERS, "e").inc()
    holder = start_python(HOLDER, tmp_path / "readers.lock")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(merged_values, "_TURNS", 3)
        with pytest.raises(UnderstudyError, match="does not finish"):
            exposition(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    assert b'understudy_failovers_total{engine="e"} 1.0' in exposition(tmp_path)[0]


def test_a_hostile_client_does_not_stop_others(server: MetricsServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    long = b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    for data in (b"\xff\x00\r\n\r\n", long, b"POST /metrics HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(data)
    assert get(server, "/healthz")[0] == 200
    for client in idle:
        client.close()


def test_a_port_in_use_is_one_clear_line(server: MetricsServer, directory: Path) -> None:
    with pytest.raises(ConfigError, match=f"port {server.port} for metrics cannot be opened: .*metrics_port"):
        start_metrics_server(directory, server.port)
