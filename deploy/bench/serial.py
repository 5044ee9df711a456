"""What is not shared out when workers are added: `python -m deploy.bench.serial`. The figures behind docs/scaling.md.

CPU of one look for changes, of a lease's renewal, of a published routing state of many routes (written, read by a
worker's thread, compiled in its loop), of records written and deleted: in the process that asks, and in PostgreSQL's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from adapters.database import Database, open_database
from adapters.fleet_store import FleetStore
from adapters.response_store import ResponseStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, from_json, to_json
from deploy.bench import command
from deploy.bench.databases import KINDS, database_url, servers_seconds
from deploy.bench.events import row
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.call import Timeouts
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.route_table import TableCompiler
from gateway.data_plane.upstreams import Upstream

ENGINES = 20
ROUTES = (10, 100, 1000)
RECORDS, BATCH = 100_000, 500


def snapshot(routes: int) -> Snapshot:
    """So many routes in a rollout, each with two arms on all engines."""
    names = tuple(f"engine-{number}" for number in range(ENGINES))
    states = []
    for number in range(routes):
        route = f"route-{number}"
        arms = (
            Arm(2 * number, "candidate", f"{route}@bbbbbbbbbbbb", f"{route}@bbbbbbbbbbbb", 0.0, 0.1, names),
            Arm(2 * number + 1, "stable", f"{route}@aaaaaaaaaaaa", f"{route}@aaaaaaaaaaaa", 0.1, 1.0, names),
        )
        states.append(RouteState(route, route, arms, number + 1))
    endpoints = tuple(Endpoint(name, f"http://10.0.0.1/{name}") for name in names)
    return Snapshot(1, 0.0, PinnedVersion(0, "base@0", "base", names), tuple(states), (), endpoints)


def timed(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """(CPU seconds of this process, of PostgreSQL's), for one call."""
    call()
    server, before = servers_seconds(), time.process_time()
    for _ in range(times):
        call()
    used = time.process_time() - before
    return used / times, (servers_seconds() - server) / times


async def in_worker(routes: int) -> dict[str, float]:
    """A worker's part of one published routing state: the thread reads it, the loop compiles it."""
    body = to_json(snapshot(routes))
    stored = json.dumps(body)
    timeouts = Timeouts(1.0, 1.0, 1.0, 1.0)
    upstreams = {e.name: Upstream(e.name, "http://127.0.0.1:1", "", timeouts) for e in snapshot(1).endpoints}
    compiler = TableCompiler("base", (), upstreams.get, Breakers())
    found = from_json(1, 0.0, body)
    return {
        "bytes": float(len(stored)),
        "read": timed(lambda: from_json(1, 0.0, json.loads(stored)), 5)[0],
        "compile": timed(lambda: compiler.compile(found), 5)[0],
    }


def in_database(database: Database) -> dict[str, Any]:
    """What the database is asked for."""
    fleet, store, minter = FleetStore(database), ResponseStore(database), IdMinter(bytes(32))
    found: dict[str, Any] = {"look": timed(fleet.poll, 3000)}
    epoch = fleet.acquire_lease("bench", "me", 1e9, time.time())
    assert epoch is not None
    found["lease"] = timed(lambda: fleet.renew_lease("bench", "me", epoch, 1e9, time.time()), 300)
    for routes in ROUTES:
        body = to_json(snapshot(routes))
        found[f"publish_{routes}"] = timed(lambda body=body: fleet.publish(body, 0.0), 5)  # type: ignore[misc]  # bound now
    numbers = iter(range(RECORDS + BATCH))
    before = log_position(database)

    def write() -> None:
        store.append("responses", [row(minter, next(numbers)) for _ in range(BATCH)])

    used, server = timed(write, RECORDS // BATCH)
    making = timed(lambda: [row(minter, number) for number in range(BATCH)], 50)[0]
    found["write"] = (used - making) / BATCH, server / BATCH
    found["log_bytes"] = (log_position(database) - before) / RECORDS
    server_before, before_cpu = servers_seconds(), time.process_time()
    deleted = store.prune(time.time() + 1.0)
    found["delete"] = (time.process_time() - before_cpu) / deleted, (servers_seconds() - server_before) / deleted
    return found


def log_position(database: Database) -> int:
    """Bytes that PostgreSQL has written to its log; 0 for SQLite."""
    if database.dialect != "postgresql":
        return 0
    with database.read() as connection:
        return int(connection.execute(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")).scalar_one())


def table(results: dict[str, Any]) -> str:
    """Microseconds of CPU."""
    lines = ["a worker, per routing state       bytes   thread: read    loop: compile"]
    for routes, one in results["worker"].items():
        times = f"{one['read'] * 1e6:12,.0f} us{one['compile'] * 1e6:14,.0f} us"
        lines.append(f"  {routes:>5} routes {one['bytes']:22,.0f}{times}")
    for kind, found in results["database"].items():
        lines.append(f"{kind}                  asking      server")
        for name, value in found.items():
            if name == "log_bytes":
                lines.append(f"  log a record {value:17,.0f} bytes")
            else:
                lines.append(f"  {name:<15}{value[0] * 1e6:12,.1f} us{value[1] * 1e6:10,.1f} us")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = command.parser("serial", __doc__)
    options = parser.parse_args()
    in_workers = {str(routes): asyncio.run(in_worker(routes)) for routes in ROUTES}
    results: dict[str, Any] = {"worker": in_workers, "database": {}}
    for kind in KINDS:
        with database_url(kind) as url, tempfile.TemporaryDirectory(prefix="understudy-serial-") as folder:
            database = open_database(DatabaseSettings(url=url), Path(folder), upgrade=True)
            results["database"][kind] = in_database(database)
            database.close()
    command.report(table(results), results, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
