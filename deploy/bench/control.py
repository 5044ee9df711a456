"""The control path: `python -m deploy.bench.control`. How soon a route's change is everywhere; what idling costs.

A controller, workers and a stand-in engine on this machine. A route goes back and forth between two loaded versions;
one connection to each worker asks again and again which version answers. A change takes from the operator's call until
the last worker has answered with the other version. Then nothing happens for a while: the CPU time of each process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.bench import command, cpu
from deploy.bench.control_site import ROUTE, Site, running
from deploy.bench.databases import KINDS, database_url
from deploy.bench.load import percentile
from deploy.bench.processes import CouldNotStart

REST = 0.12  # seconds between the end of a change and the next one, plus a little that changes
LONGEST = 10.0  # seconds a change may take
ASK_EVERY = 0.004  # seconds between two questions to one worker
TRIES = 400  # connections opened to find one to every worker


class Asker:
    """Asks one worker which version answers: `version`, since `since` (monotonic)."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._body = json.dumps({"model": ROUTE, "messages": [{"role": "user", "content": "hi"}]})
        self.version, self.since = "", 0.0
        self.errors = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def ask(self) -> str:
        """One request; the version that answered."""
        self._connection.request(
            "POST", "/v1/chat/completions", self._body, {"content-type": "application/json"}
        )  # fmt: skip
        response = self._connection.getresponse()
        response.read()
        self.errors += response.status != 200
        return response.headers.get("x-understudy-version", "")

    def start(self) -> None:
        """Ask on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.wait(ASK_EVERY):
            version = self.ask()
            if version != self.version:
                self.version, self.since = version, time.monotonic()


def owner(connection: http.client.HTTPConnection, pids: list[int]) -> int:
    """Which process holds the other end of a connection over loopback; 0: none of these."""
    assert connection.sock is not None
    here, there = (address[1] for address in (connection.sock.getsockname(), connection.sock.getpeername()))
    wanted = f":{there:04X}", f":{here:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(wanted[0]) and row[2].endswith(wanted[1])}
    for pid in pids:
        for link in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()) in inodes:
                    return pid
    return 0


@contextlib.contextmanager
def one_for_each_worker(site: Site, workers: int) -> Iterator[list[Asker]]:
    """Askers, one to every worker. Raises CouldNotStart when a worker takes no connection."""
    pids = sorted(cpu.tree(site.server.pid) - {site.server.pid})
    askers: dict[int, Asker] = {}
    spare = []
    for _ in range(TRIES):
        connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=LONGEST)
        asker = Asker(connection)
        asker.ask()
        pid = owner(connection, pids)
        if pid and pid not in askers:
            askers[pid] = asker
        else:
            spare.append(connection)  # kept open meanwhile: a busy worker leaves the next connection to others
        if len(askers) == workers:
            break
    for connection in spare:
        connection.close()
    if len(askers) < workers:
        raise CouldNotStart(f"only {len(askers)} of {workers} workers took a connection in {TRIES} tries")
    for asker in askers.values():
        asker.start()
    try:
        yield list(askers.values())
    finally:
        for asker in askers.values():
            asker.stop()


def change(site: Site, askers: list[Asker], version: str) -> float:
    """Seconds from the operator's call until the last worker answered with `version`. Raises CouldNotStart."""
    began = time.monotonic()
    site.operate("PUT", f"/api/v1/routes/{ROUTE}/version", {"version": version})
    while any(asker.version != version for asker in askers):
        if time.monotonic() - began > LONGEST:
            raise CouldNotStart(f"{version} did not reach every worker within {LONGEST:.0f} s")
        time.sleep(0.001)
    return max(asker.since for asker in askers) - began


def measure_changes(site: Site, workers: int, changes: int) -> dict[str, Any]:
    """Times of `changes` changes, and how far apart the first and the last worker were."""
    times, spreads = [], []
    with one_for_each_worker(site, workers) as askers:
        for number in range(changes + 2):
            taken = change(site, askers, site.versions[number % 2])
            if number >= 2:  # the first of each version loads it
                times.append(taken)
                spreads.append(max(asker.since for asker in askers) - min(asker.since for asker in askers))
            time.sleep(REST + 0.037 * (number % 7))  # not in step with anybody's clock
        errors = sum(asker.errors for asker in askers)
    return {
        "changes": changes, "workers": workers, "failed_requests": errors, "median": statistics.median(times),
        "p99": percentile(times, 0.99), "longest": max(times), "spread_p99": percentile(spreads, 0.99),
    }  # fmt: skip


def measure_idle(site: Site, seconds: float) -> dict[str, float]:
    """Share of a core that the controller and one worker use while nothing happens; memory in MB."""
    worker = max(cpu.tree(site.server.pid) - {site.server.pid}, key=resident)
    pids = {"controller": site.controller.pid, "worker": worker, "parent": site.server.pid}
    before = {name: cpu.process_seconds(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    found = {name: (cpu.process_seconds(pid) - before[name]) / seconds for name, pid in pids.items()}
    return found | {f"{name}_mb": resident(pid) / 1e6 for name, pid in pids.items()}


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(results: dict[str, dict[str, Any]]) -> str:
    """For people: times in ms, CPU in percent of a core."""
    lines = ["database     change p50     p99  longest   spread   failed   idle: controller   worker   parent"]
    for kind, found in results.items():
        changes, idle = found["changes"], found["idle"]
        times = "".join(f"{changes[name] * 1e3:9.0f}" for name in ("median", "p99", "longest", "spread_p99"))
        shares = "".join(f"{idle[name]:9.2%}" for name in ("controller", "worker", "parent"))
        lines.append(f"{kind:<13}{times}{changes['failed_requests']:9d}         {shares}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit status 1 when a request failed."""
    parser = command.parser("control", __doc__)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds to watch while nothing happens")
    parser.add_argument("--databases", default=",".join(KINDS), help="with commas; default: %(default)s")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for kind in options.databases.split(","):
        print(f"{kind}: starting", file=sys.stderr, flush=True)
        with (
            database_url(kind) as database,
            tempfile.TemporaryDirectory(prefix="understudy-control-") as folder,
            running(Path(folder), database, options.workers) as site,
        ):
            changes = measure_changes(site, options.workers, options.changes)
            print(f"{kind}: idle for {options.idle:.0f} s", file=sys.stderr, flush=True)
            results[kind] = {"changes": changes, "idle": measure_idle(site, options.idle)}
    command.report(table(results), results, options.out)
    return int(any(found["changes"]["failed_requests"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
