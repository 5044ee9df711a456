"""What the benchmark of the screening runs against: a gateway with one route for each mode, an engine, and a guard."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.database import open_database
from adapters.fleet_store import FleetStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, to_json
from deploy.bench import cpu
from deploy.bench.processes import named_ports, started, wait_ready

ROUTES = ("off", "audit", "prompt", "enforce")
CONFIGURATION = """\
data_dir = "{folder}/state"
[gateway]
port = {port}
metrics_port = 0
[engine]
managed = false
urls = ["{engine}"]
[screening]
mode = "off"
url = "{guard}"
timeout = "2s"
checkpoint = {checkpoint}
[screening.routes.audit]
mode = "audit"
[screening.routes.prompt]
mode = "enforce"
directions = ["prompt"]
[screening.routes.enforce]
mode = "enforce"
"""


@dataclass
class Site:
    """Where the gateway and the guard are; `kill_guard` ends the guard outright."""

    url: str
    guard: str
    stack: contextlib.ExitStack
    _guard: contextlib.ExitStack

    def kill_guard(self) -> None:
        """It is gone."""
        self._guard.close()


@contextlib.contextmanager
def site(folder: Path, *, real_guard: bool) -> Iterator[Site]:
    """Everything up. `real_guard`: `understudy guard` with the demo's checkpoint; else a stand-in."""
    cores = cpu.plan()
    ports = named_ports("engine", "guard", "gateway")
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    config = folder / "understudy.toml"
    checkpoint = 16 if real_guard else 64  # its world's texts are short
    config.write_text(CONFIGURATION.format(
        folder=folder, port=ports["gateway"], engine=urls["engine"], guard=urls["guard"], checkpoint=checkpoint
    ))  # fmt: skip
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as guards:
        peer = [sys.executable, "-m", "deploy.bench.screening_peers"]
        stack.enter_context(started([*peer, "engine", str(ports["engine"])], folder / "engine.log", cores["upstream"]))
        command = [*peer, "guard", str(ports["guard"])]
        if real_guard:
            guarded = folder / "guard.toml"
            guarded.write_text(f'[screening]\nmode = "enforce"\nmodel = "demo"\nport = {ports["guard"]}\n')
            command = [sys.executable, "-m", "gateway.cli", "guard", "-c", str(guarded)]
        process = guards.enter_context(started(command, folder / "guard.log", cores["upstream"]))
        wait_ready(process, folder / "guard.log", urls["guard"], "/readyz")
        database = open_database(DatabaseSettings(), folder / "state")
        stack.callback(database.close)
        publish(FleetStore(database), urls["engine"])
        serve = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)]
        server = stack.enter_context(started(serve, folder / "serve.log", cores["relay"]))
        wait_ready(server, folder / "serve.log", urls["gateway"], "/readyz")
        yield Site(urls["gateway"], urls["guard"], stack, guards)


def publish(fleet: FleetStore, engine: str) -> None:
    """One route for each mode, all of one version."""
    routes = []
    for name in ROUTES:
        version = f"{name}@aaaaaaaaaaaa"
        arm = Arm(fleet.assignment(name, version, "stable", 1.0), "stable", version, version, 0.0, 1.0, ("e",))
        routes.append(RouteState(name, name, (arm,)))
    base = PinnedVersion(fleet.assignment("base", "base@0", "base", 1.0), "base@0", "base", ("e",))
    fleet.publish(to_json(Snapshot(0, 0.0, base, tuple(routes), (), (Endpoint("e", engine),))), time.time())


