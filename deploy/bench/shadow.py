"""What a shadow costs the users: `python -m deploy.bench.shadow`.

One worker in front of a stand-in engine; streams, or whole answers. Rounds go through the states in turn: no shadow;
every prompt mirrored to a candidate that answers; to one that accepts requests and never answers; to one that is gone.
What is shown are the users' latencies (p50 and p99 over all rounds' medians) and the gateway's CPU time a request.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters import tables
from adapters.database import Database, open_database
from adapters.fleet_store import FleetStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Shadow, Snapshot, to_json
from deploy.bench import command, cpu
from deploy.bench.load import Work
from deploy.bench.measure import load
from deploy.bench.processes import free_port, started, wait_ready

ROUTE, STABLE, CANDIDATE = "bench", "bench@aaaaaaaaaaaa", "bench@bbbbbbbbbbbb"
STATES = ("off", "on", "stuck", "gone")
SHOWN = ("first_p50", "first_p99", "latency_p50", "latency_p99", "cpu_per_request", "requests")
CONFIGURATION = """\
data_dir = "{folder}/state"
[gateway]
port = {port}
metrics_port = 0
[engine]
managed = false
urls = ["{upstream}"]
"""


def publish(database: Database, engines: dict[str, str], rollout: int, state: str, options: argparse.Namespace) -> None:
    """Route everything to STABLE; with a shadow on the engine that behaves as `state` says."""
    fleet = FleetStore(database)
    served = fleet.assignment(ROUTE, STABLE, "stable", 1.0, rollout=rollout)
    arm = Arm(served, "stable", STABLE, STABLE, 0.0, 1.0, ("user",))
    shadow = None
    if state != "off":
        mirrored = fleet.assignment(ROUTE, CANDIDATE, "shadow", 1.0, rollout=rollout)
        shadow = Shadow(mirrored, CANDIDATE, CANDIDATE, (state,), 1.0, options.concurrency, options.ceiling, 5.0)
    route = RouteState(ROUTE, ROUTE, (arm,), rollout, shadow)
    base = PinnedVersion(fleet.assignment("base", "base@0", "base", 1.0), "base@0", "base", ("user",))
    endpoints = tuple(Endpoint(name, url) for name, url in engines.items())
    fleet.publish(to_json(Snapshot(0, 0.0, base, (route,), (), endpoints)), time.time())
    time.sleep(0.5)  # the worker looks every 40 ms


def new_rollout(database: Database) -> int:
    """A row that pairs may point at."""
    row: dict[str, Any] = {"route": ROUTE, "candidate": CANDIDATE, "stable": STABLE, "plan": {}, "phase": "shadow"}
    with database.begin() as connection:
        done = connection.execute(tables.rollouts.insert().values(**row, started_at=0, phase_since=0, state={}))
        key = done.inserted_primary_key
        assert key is not None
        return int(key[0])


@contextlib.contextmanager
def site(folder: Path) -> Iterator[tuple[str, int, Database, dict[str, str]]]:
    """A gateway (its URL and process) and the engines: name → URL."""
    cores = cpu.plan()
    ports = {name: free_port() for name in ("user", "on", "gone", "gateway")}
    engines = {name: f"http://127.0.0.1:{ports[name]}" for name in ("user", "on", "gone")}
    config, log = folder / "understudy.toml", folder / "serve.log"
    config.write_text(CONFIGURATION.format(folder=folder, port=ports["gateway"], upstream=engines["user"]))
    url = f"http://127.0.0.1:{ports['gateway']}"
    with contextlib.ExitStack() as stack:
        for name in ("user", "on"):
            command = [sys.executable, "-m", "deploy.bench.upstream", str(ports[name])]
            process = stack.enter_context(started(command, folder / f"{name}.log", cores["upstream"]))
            wait_ready(process, folder / f"{name}.log", engines[name], "/health")
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        engines["stuck"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        database = open_database(DatabaseSettings(), folder / "state")
        stack.callback(database.close)
        serve = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)]
        server = stack.enter_context(started(serve, log, cores["relay"]))
        wait_ready(server, log, url, "/healthz")
        yield url, server.pid, database, engines


def run(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Results by state, one for every round."""
    cores, results = cpu.plan(), {state: list[dict[str, Any]]() for state in STATES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-shadow-")))
        url, pid, database, engines = stack.enter_context(site(folder))
        rollout = new_rollout(database)
        work = Work(
            url, options.connections, options.seconds, stream=not options.whole, model=ROUTE, pid=pid,
            core=cores["relay"],
        )  # fmt: skip
        for number in range(options.rounds):
            for state in STATES[number % 4 :] + STATES[: number % 4]:
                print(f"round {number + 1} of {options.rounds}: {state}", file=sys.stderr, flush=True)
                publish(database, engines, rollout, state, options)
                results[state].append(load(work, cores["load"]))
    return results


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over the rounds; times in milliseconds, CPU in microseconds."""
    lines = ["shadow   TTFT p50   TTFT p99    p50       p99       CPU/request  requests  failed"]
    for state, rounds in results.items():
        found = {name: statistics.median(float(r.get(name) or 0) for r in rounds) for name in SHOWN}
        failed = sum(sum(r["errors"].values()) for r in rounds)
        times = "".join(f"{found[name] * 1e3:8.2f} ms" for name in SHOWN[:4])
        used = f"{found['cpu_per_request'] * 1e6:8.0f} us"
        lines.append(f"{state:<6}{times} {used} {found['requests']:10.0f} {failed:7d}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit status 1 when a user's request failed."""
    parser = command.parser("shadow", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=4, help="mirrored requests under way at once")
    parser.add_argument("--ceiling", type=int, default=64, help="requests in flight above which nothing is mirrored")
    parser.add_argument("--whole", action="store_true", help="whole answers, without a pause, instead of streams")
    options = parser.parse_args()
    results = run(options)
    command.report(table(results), results, options.out)
    return int(any(r["errors"] for rounds in results.values() for r in rounds))


if __name__ == "__main__":
    sys.exit(main())
