"""What being scraped costs the users: `python -m deploy.bench.scraping`.

One worker with many routes, so that there is much to tell, in front of a stand-in engine; every answer is whole.
Rounds go through the states in turn: nobody looks at the metrics; they are read every 100 ms, which is 150 times as
often as a Prometheus with its defaults would. What is shown are the users' latencies (medians of the rounds' p50 and
p99), the requests a second, and the CPU time of the worker and of its parent, which answers the scrapes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.database import open_database
from adapters.fleet_store import FleetStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, to_json
from deploy.bench import command, cpu
from deploy.bench.load import MESSAGES, Work
from deploy.bench.measure import load
from deploy.bench.processes import named_ports, started, wait_ready

EVERY = 0.1                # seconds between two scrapes
STATES = ("alone", "scraped")
CONFIGURATION = """\
data_dir = "{folder}/state"
[gateway]
port = {port}
metrics_port = {metrics}
[engine]
managed = false
urls = ["{upstream}"]
"""


def publish(folder: Path, upstream: str, routes: int) -> None:
    """`routes` routes with one version each: route-0, route-1, …"""
    database = open_database(DatabaseSettings(), folder / "state")
    fleet, states = FleetStore(database), []
    for number in range(routes):
        name, version = f"route-{number}", f"route-{number}@aaaaaaaaaaaa"
        arm = Arm(fleet.assignment(name, version, "stable", 1.0), "stable", version, version, 0.0, 1.0, ("engine",))
        states.append(RouteState(name, name, (arm,)))
    base = PinnedVersion(fleet.assignment("base", "base@0", "base", 1.0), "base@0", "base", ("engine",))
    fleet.publish(to_json(Snapshot(0, 0.0, base, tuple(states), (), (Endpoint("engine", upstream),))), time.time())
    database.close()


@contextlib.contextmanager
def gateway(folder: Path, routes: int) -> Iterator[tuple[str, int, int]]:
    """(its URL, its process, its metrics port)."""
    cores, ports = cpu.plan(), named_ports("upstream", "port", "metrics")
    upstream = f"http://127.0.0.1:{ports['upstream']}"
    config, log = folder / "understudy.toml", folder / "serve.log"
    settings = {"port": ports["port"], "metrics": ports["metrics"], "upstream": upstream}
    config.write_text(CONFIGURATION.format(folder=folder, **settings))
    engine = [sys.executable, "-m", "deploy.bench.upstream", str(ports["upstream"])]
    serve = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)]
    url = f"http://127.0.0.1:{ports['port']}"
    with started(engine, folder / "engine.log", cores["upstream"]) as process:
        wait_ready(process, folder / "engine.log", upstream, "/health")
        publish(folder, upstream, routes)
        with started(serve, log, cores["relay"]) as server:
            wait_ready(server, log, url, "/readyz")
            for number in range(routes):
                _ask(ports["port"], f"route-{number}")
            yield url, server.pid, ports["metrics"]


def _ask(port: int, route: str) -> None:
    """One request: a route's series exist from its first one on."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": route, "messages": MESSAGES}))
    connection.getresponse().read()
    connection.close()


class Scraper:
    """Reads /metrics every EVERY seconds from a thread of this program, while it is entered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.took: list[float] = []      # seconds
        self.size = 0                    # bytes of the last answer

    def __enter__(self) -> Scraper:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            began = time.perf_counter()
            connection.request("GET", "/metrics")
            self.size = len(connection.getresponse().read())
            self.took.append(time.perf_counter() - began)
            connection.close()


def _whole(pid: int) -> float:
    """CPU seconds of a process, those of threads that have ended included: each scrape has a thread of its own."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * cpu.TICK


def run(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Results by state, one for every round."""
    cores, results = cpu.plan(), {state: list[dict[str, Any]]() for state in STATES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-scraping-")))
        url, pid, port = stack.enter_context(gateway(folder, options.routes))
        worker = max(cpu.tree(pid) - {pid}, key=cpu.process_seconds)  # beside it is Python's resource tracker
        work = Work(url, options.connections, options.seconds, model="route-0", pid=worker, core=cores["relay"])
        for number in range(options.rounds):
            for state in STATES[number % 2 :] + STATES[: number % 2]:
                print(f"round {number + 1} of {options.rounds}: {state}", file=sys.stderr, flush=True)
                before = _whole(pid)
                with Scraper(port) if state == "scraped" else contextlib.nullcontext() as scraper:
                    found = load(work, cores["load"])
                found["parent_cpu"] = _whole(pid) - before
                found["scrapes"] = scraper.took if scraper else []
                found["bytes"] = scraper.size if scraper else 0
                results[state].append(found)
    return results


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over the rounds; latencies in milliseconds, the worker's CPU time in microseconds a request."""
    lines = ["          p50        p99      requests/s  worker's CPU/request  CPU of a scrape  failed"]
    for state, rounds in results.items():
        middle = {name: statistics.median(float(r.get(name) or 0) for r in rounds)
                  for name in ("latency_p50", "latency_p99", "per_second", "cpu_per_request")}  # fmt: skip
        scrapes = sum(len(r["scrapes"]) for r in rounds)
        each = f"{sum(r['parent_cpu'] for r in rounds) / scrapes * 1e3:12.1f} ms" if scrapes else f"{'':12}   "
        failed = sum(sum(r["errors"].values()) for r in rounds)
        lines.append(
            f"{state:<8}{middle['latency_p50'] * 1e3:6.2f} ms  {middle['latency_p99'] * 1e3:6.2f} ms  "
            f"{middle['per_second']:10.0f} {middle['cpu_per_request'] * 1e6:18.0f} us  {each} {failed:7d}"
        )
    size = max(r["bytes"] for r in results["scraped"])
    return "\n".join([*lines, f"one answer of /metrics: {size / 1e6:.2f} MB"])


def main() -> int:
    """Measure, print, write. Exit status 1 when a user's request failed."""
    parser = command.parser("scraping", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--routes", type=int, default=20)
    options = parser.parse_args()
    results = run(options)
    command.report(table(results), results, options.out)
    return int(any(r["errors"] for rounds in results.values() for r in rounds))


if __name__ == "__main__":
    sys.exit(main())
