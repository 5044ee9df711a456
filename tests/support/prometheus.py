"""A real Prometheus and a real Alertmanager, started from configuration files of this repository with other targets.

    with start_prometheus(folder, CONFIG, {"understudy-gateway": ["127.0.0.1:8082"]}) as prometheus:
        prometheus.until("understudy_build_info")

Tests that use them carry `@pytest.mark.needs("prometheus")` or `needs("prometheus", "alertmanager")`. Both are
Debian's packages, listen on loopback only, keep everything in the given folder and end with the block.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.left_out import find_program
from tests.support.ports import free_port
from tests.support.tree import ROOT

PROMETHEUS_CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
START_TIMEOUT = 60.0       # seconds; a busy machine is slow, not broken
Series = dict[str, Any]    # as the API answers: {"metric": labels, "value": [at, text]}


@dataclass(frozen=True)
class Server:
    """A running server of ours. `address` is host:port, `log` what it wrote."""

    address: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{self.address}"

    def get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer of its API (Alertmanager: the whole answer). Fails the test with what it said."""
        answer = httpx.get(self.url + path, params=parameters, timeout=30)
        assert answer.status_code == 200, f"{path} {parameters}: {answer.text}"
        body = answer.json()
        return body.get("data", body) if isinstance(body, dict) else body


@dataclass(frozen=True)
class Prometheus(Server):
    """A running Prometheus."""

    def query(self, promql: str, at: float | None = None) -> list[Series]:
        """The series of an instant query, now or at a time (seconds since the epoch). A wrong query fails the test."""
        found = self.get("/api/v1/query", query=promql, **({} if at is None else {"time": at}))
        return found["result"] if found["resultType"] != "scalar" else [{"metric": {}, "value": found["result"]}]

    def value(self, promql: str) -> float:
        """The number of the only series of a query."""
        (series,) = self.query(promql)
        return float(series["value"][1])

    def range(self, promql: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a range query, each with "values": [[at, text], …]. Times in seconds."""
        return self.get("/api/v1/query_range", query=promql, start=start, end=end, step=step)["result"]

    def until(self, promql: str, seconds: float = 90.0) -> list[Series]:
        """The answer of a query as soon as it is not empty. The test fails when it stays empty."""
        return _until(lambda: self.query(promql), seconds, f"{promql} stays empty")

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts."""
        return self.get("/api/v1/alerts")["alerts"]

    def unhealthy(self) -> list[str]:
        """Targets that cannot be scraped, with the reason."""
        active = self.get("/api/v1/targets", state="active")["activeTargets"]
        return [f"{t['labels']['job']}: {t['lastError']}" for t in active if t["health"] == "down"]


@dataclass(frozen=True)
class Alertmanager(Server):
    """A running Alertmanager."""

    def alerts(self) -> list[dict[str, Any]]:
        """What it was told and has not forgotten."""
        return self.get("/api/v2/alerts")


@contextlib.contextmanager
def start_prometheus(
    directory: Path,
    config: Path,
    targets: Mapping[str, Sequence[str]],
    rules: Sequence[Path] = (),
    alertmanagers: Sequence[str] = (),
    interval: str = "500ms",
) -> Iterator[Prometheus]:
    """Run `config` with the jobs that `targets` names (job → host:port, …), those rule files and alertmanagers only.

    `interval`: how often it scrapes and evaluates, whatever the file says, groups with an interval of their own aside.
    """
    directory.mkdir(parents=True, exist_ok=True)
    body = yaml.safe_load(config.read_text())
    unknown = set(targets) - {job["job_name"] for job in body["scrape_configs"]}
    assert not unknown, f"{config} has no jobs {sorted(unknown)}"
    body["global"] |= {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval}
    body["rule_files"] = [str(rule.resolve()) for rule in rules]
    body["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]}
    body["scrape_configs"] = [
        {key: value for key, value in job.items() if not key.endswith("_sd_configs")}
        | {"static_configs": [{"targets": list(targets[job["job_name"]])}]}
        for job in body["scrape_configs"] if job["job_name"] in targets
    ]  # fmt: skip
    written = directory / "prometheus.yml"
    written.write_text(yaml.safe_dump(body))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": written, "storage.tsdb.path": directory / "data", "web.listen-address": address}
    with _running("prometheus", directory, address, options) as process:
        yield Prometheus(address, directory / "prometheus.log", process)


@contextlib.contextmanager
def start_alertmanager(
    directory: Path,
    config: Path,
    webhook: str = "",
    token_file: Path | None = None,
    timing: Mapping[str, str] | None = None,
) -> Iterator[Alertmanager]:
    """Run `config`; every webhook goes to the URL `webhook`, with the token in `token_file`, where these are given.

    `timing`: other values of group_wait, group_interval and repeat_interval, in every route.
    """
    directory.mkdir(parents=True, exist_ok=True)
    body = yaml.safe_load(config.read_text())
    for hook in [hook for receiver in body["receivers"] for hook in receiver.get("webhook_configs", [])]:
        hook["url"] = webhook or hook["url"]
        if token_file is not None:
            hook.setdefault("http_config", {})["authorization"] = {"credentials_file": str(token_file)}
    _retime(body["route"], timing or {})
    written = directory / "alertmanager.yml"
    written.write_text(yaml.safe_dump(body))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": written, "storage.path": directory / "data", "web.listen-address": address}
    with _running("alertmanager", directory, address, options | {"cluster.listen-address": ""}) as process:
        yield Alertmanager(address, directory / "alertmanager.log", process)


def _retime(route: dict[str, Any], timing: Mapping[str, str]) -> None:
    """The top route says all of `timing`, those below it only what they said before."""
    for inner in route.get("routes", []):
        _retime(inner, {key: value for key, value in timing.items() if key in inner})
    route.update(timing)


@contextlib.contextmanager
def _running(name: str, directory: Path, address: str, options: Mapping[str, object]) -> Iterator[subprocess.Popen[bytes]]:
    """The program, ready; ended by its pid. It ends with us, even when we are killed."""
    program = find_program(name)
    assert program is not None, "tests/support/left_out.py fails a test that lacks it"
    log = directory / f"{name}.log"
    command = ["setpriv", "--pdeathsig=KILL", program, *(f"--{key}={value}" for key, value in options.items())]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory, start_new_session=True)
    try:
        _until(lambda: _ready(process, address, log), START_TIMEOUT, f"{name} did not start; its log is {log}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _ready(process: subprocess.Popen[bytes], address: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        return httpx.get(f"http://{address}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _until(found: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.05)
    raise AssertionError(otherwise)
