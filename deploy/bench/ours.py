"""Understudy as a peer: one worker, with everything switched on, with screening too, or with everything off.

On is: keys required, users that stick, a rollout at 10 % (its arms watched, its breaker armed, 50 answers a second
looked at), metrics, and a record of every answer in the database. The routing state is published by hand: what the
controller does costs no relay anything.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from adapters import tables
from adapters.database import Database, open_database
from adapters.fleet_store import FleetStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, to_json
from deploy.bench.processes import CouldNotStart, free_port, started, wait_ready
from deploy.bench.site import Running, Site, Start

ROUTE, STABLE, CANDIDATE, SHARE = "bench", "bench@aaaaaaaaaaaa", "bench@bbbbbbbbbbbb", 0.1
UNDERSTUDY = (sys.executable, "-m", "gateway.cli")
CONFIGURATION = """\
data_dir = "{folder}/state"
[gateway]
port = {port}
metrics_port = {metrics_port}
require_keys = {keys}
[engine]
managed = false
urls = ["{upstream}"]
served_name = "base"
{more}
"""


def understudy(mode: str, more: str = "") -> Start:
    """`mode`: "on" or "off"; `more`: further configuration."""

    @contextlib.contextmanager
    def start(site: Site) -> Iterator[Running]:
        folder, port = site.folder / f"understudy-{mode}-{len(more)}", free_port()
        folder.mkdir()
        url, config, log = f"http://127.0.0.1:{port}", folder / "understudy.toml", folder / "serve.log"
        settings = {"port": port, "metrics_port": free_port(), "keys": str(mode == "on").lower(), "more": more}
        config.write_text(CONFIGURATION.format(folder=folder, upstream=site.upstream, **settings))
        command(config, "db", "upgrade")
        words = ("key", "create", "--scope", "inference,operator")
        key = command(config, *words).strip().splitlines()[-1].split()[-1] if mode == "on" else ""
        publish(folder / "state", site.upstream, rollout=mode == "on")
        with started([*UNDERSTUDY, "serve", "-c", str(config)], log, site.core) as server:
            wait_ready(server, log, url, "/readyz")
            wait_ready(server, log, url, f"/v1/models/{ROUTE}", key)
            yield Running(url, server.pid, ROUTE, key)

    return start


@contextlib.contextmanager
def audited(site: Site) -> Iterator[Running]:
    """With screening = audit too: prompts and answers are judged, by a stand-in of the guard on the other core."""
    port, log = free_port(), site.folder / "guard.log"
    guard = [sys.executable, "-m", "deploy.bench.screening_peers", "guard", str(port)]
    with started(guard, log, site.side_core) as process:
        wait_ready(process, log, f"http://127.0.0.1:{port}", "/readyz")
        screening = f'[screening]\nmode = "audit"\nurl = "http://127.0.0.1:{port}"'
        with understudy("on", screening)(site) as running:
            yield running


def publish(data_dir: Path, engine: str, rollout: bool) -> None:
    """The routing state: a route with one version, or with a rollout of another."""
    database = open_database(DatabaseSettings(), data_dir)
    try:
        fleet, names = FleetStore(database), ("engine",)
        number = _new_rollout(database) if rollout else 0
        edge = SHARE if rollout else 0.0
        stable = fleet.assignment(ROUTE, STABLE, "stable", 1 - edge, rollout=number)
        arms = [Arm(stable, "stable", STABLE, STABLE, edge, 1.0, names)]
        if rollout:
            candidate = fleet.assignment(ROUTE, CANDIDATE, "candidate", edge, rollout=number)
            arms.insert(0, Arm(candidate, "candidate", CANDIDATE, CANDIDATE, 0.0, edge, names))
        base = PinnedVersion(fleet.assignment("base", "base@0", "base", 1.0), "base@0", "base", names)
        route = RouteState(ROUTE, ROUTE, tuple(arms), number)
        fleet.publish(to_json(Snapshot(0, 0.0, base, (route,), (), (Endpoint("engine", engine),))), time.time())
    finally:
        database.close()


def _new_rollout(database: Database) -> int:
    """A row that records may point at."""
    row = {"route": ROUTE, "candidate": CANDIDATE, "stable": STABLE, "plan": {}, "phase": "canary"}
    with database.begin() as connection:
        done = connection.execute(tables.rollouts.insert().values(**row, started_at=0, phase_since=0, state={}))
        key = done.inserted_primary_key
        assert key is not None
        return int(key[0])


def command(config: Path, *words: str) -> str:
    """Run one of our own commands. Raises CouldNotStart with its error line."""
    try:
        done = subprocess.run(
            [*UNDERSTUDY, *words, "-c", str(config)], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CouldNotStart(f"understudy {' '.join(words)}: {error}") from None
    if done.returncode:
        raise CouldNotStart(f"understudy {' '.join(words)}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
