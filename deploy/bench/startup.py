"""Starting: `python -m deploy.bench.startup`. How long `understudy --help` and `serve` take, and how much memory.

`serve` is ready when GET /readyz answers 200: one worker has read the keys and the routing state, and takes requests.
An installation with a controller and an engine exists already. Memory is what a worker and its parent hold resident
after some thousand requests. CPU seconds say what a start costs on a machine that is not busy.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploy.bench import command, cpu
from deploy.bench.control import resident
from deploy.bench.control_site import ROUTE, UNDERSTUDY, running
from deploy.bench.processes import free_port, started

LIMIT = 60.0  # seconds


def help_seconds() -> tuple[float, float]:
    """(wall, CPU) of one `understudy --help`."""
    before, began = os.times(), time.monotonic()
    subprocess.run([*UNDERSTUDY, "--help"], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, used


def serve_seconds(config: Path, requests: int) -> dict[str, float]:
    """One start of `serve` on a port of its own, and its memory after some requests."""
    port = free_port()
    environment = {"UNDERSTUDY_GATEWAY__PORT": str(port), "UNDERSTUDY_GATEWAY__METRICS_PORT": "0"}
    began = time.monotonic()
    with started([*UNDERSTUDY, "serve", "-c", str(config)], config.parent / "start.log", None, environment) as process:
        while not _ready(port):
            if process.poll() is not None or time.monotonic() - began > LIMIT:
                raise SystemExit(f"it did not start: {(config.parent / 'start.log').read_text()[-500:]}")
            time.sleep(0.005)
        wall, used = time.monotonic() - began, cpu.seconds(process.pid)
        below = cpu.tree(process.pid) - {process.pid}
        worker = max(below, key=resident)
        fresh = resident(worker)
        _ask(port, requests)
        return {
            "ready": wall, "cpu": used, "worker_fresh_mb": fresh / 1e6, "worker_mb": resident(worker) / 1e6,
            "parent_mb": resident(process.pid) / 1e6, "others_mb": sum(resident(p) for p in below - {worker}) / 1e6,
        }  # fmt: skip


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    connection.close()
    return False


def _ask(port: int, requests: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": ROUTE, "messages": [{"role": "user", "content": "hi"}]})
    for _ in range(requests):
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        connection.getresponse().read()
    connection.close()


def measure(rounds: int, requests: int) -> dict[str, Any]:
    """Medians over the rounds."""
    helps = [help_seconds() for _ in range(rounds)]
    with (
        tempfile.TemporaryDirectory(prefix="understudy-startup-") as folder,
        running(Path(folder), "sqlite", 1),
    ):
        starts = [serve_seconds(Path(folder) / "understudy.toml", requests) for _ in range(rounds)]
    found: dict[str, Any] = {"rounds": rounds, "requests": requests}
    found["help"], found["help_cpu"] = (statistics.median(values) for values in zip(*helps, strict=True))
    return found | {name: statistics.median(start[name] for start in starts) for name in starts[0]}


def main() -> int:
    """Measure, print, write."""
    parser = command.parser("startup", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    found = measure(options.rounds, options.requests)
    text = (
        f"understudy --help: {found['help']:.2f} s ({found['help_cpu']:.2f} s of CPU)\n"
        f"understudy serve: ready after {found['ready']:.2f} s ({found['cpu']:.2f} s of CPU)\n"
        f"resident: worker {found['worker_fresh_mb']:.0f} MB, {found['worker_mb']:.0f} MB after {options.requests} "
        f"requests; parent {found['parent_mb']:.0f} MB, others {found['others_mb']:.0f} MB"
    )
    command.report(text, found, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
