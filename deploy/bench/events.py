"""Writing records: `python -m deploy.bench.events`. What 5,000 answers a second cost, and whether any is lost.

As in a worker: an event loop (uvloop) queues records, one for each answer, and the writer's thread stores them in
batches. Several such processes share one database. Beside each run the same without a database, to compare with.

- CPU a record: of the writer's thread; and of the whole process, beyond the run without a database.
- Stall: how much later than planned a timer of 1 ms fired in the loop; what a request would have waited.
- Lost: answered minus stored. Backlog: the most records that waited in memory in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import func, select, text

from adapters import tables
from adapters.database import open_database
from adapters.response_store import ResponseStore, Row
from adapters.settings import DatabaseSettings
from deploy.bench import command
from deploy.bench.databases import KINDS, database_url, servers_seconds
from deploy.bench.load import percentile
from gateway.data_plane.events import EventWriter
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.process import SWITCH

TICK = 0.001  # seconds between two timers
FLUSH = 60.0  # seconds for what is still queued at the end
FILL = 5000  # rows of one batch while the table is filled


@dataclass(frozen=True)
class Job:
    """What one process does. `url` empty: without a database."""

    url: str
    folder: str
    rate: float
    seconds: float
    seed: int


class Nowhere:
    """Takes everything and keeps nothing."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Rows that go nowhere."""


def row(minter: IdMinter, number: int) -> Row:
    """A record as the accountant makes it."""
    unit = number.to_bytes(8, "big")
    now = time.time()
    return (f"chatcmpl-{minter.mint(7, b'owns', unit, now)}", now, 7, unit, "chat", 200, "ok", 0.03, 0.9, 512, 210, 0)


async def produce(job: Job, writer: EventWriter) -> dict[str, Any]:
    """Queue records at the job's rate; what was queued, and how late the timers were."""
    minter, loop = IdMinter(bytes(32)), asyncio.get_running_loop()
    began, sent, late, backlog = loop.time(), 0, list[float](), 0
    queue = writer._responses.queue
    while (now := loop.time()) - began < job.seconds:
        for _ in range(int((now - began) * job.rate) - sent):
            writer.response(row(minter, job.seed + sent))
            sent += 1
        backlog = max(backlog, len(queue))
        due = loop.time() + TICK
        await asyncio.sleep(TICK)
        late.append(loop.time() - due)
    return {"sent": sent, "late": late, "backlog": backlog}


def work(job: Job, pipe: Connection) -> None:
    """Body of one process."""
    sys.setswitchinterval(SWITCH)
    drops: list[int] = []
    database = open_database(DatabaseSettings(url=job.url), Path(job.folder)) if job.url else None
    store = ResponseStore(database) if database else Nowhere()
    writer = EventWriter(store, lambda kind, count: drops.append(count))
    pipe.send("ready")
    pipe.recv()
    before, wall = time.process_time(), time.monotonic()
    found = uvloop.run(produce(job, writer))
    thread = _thread_seconds(writer)
    total = time.process_time() - before
    writer.close(FLUSH)
    pipe.send(found | {"thread": thread, "process": total, "dropped": sum(drops), "wall": time.monotonic() - wall})
    if database:
        database.close()


def _thread_seconds(writer: EventWriter) -> float:
    task = Path("/proc/self/task", str(writer._thread.native_id), "schedstat")
    return int(task.read_text().split()[0]) / 1e9


def run(jobs: list[Job]) -> list[dict[str, Any]]:
    """All jobs at once, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for job in jobs:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(job, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    results: list[dict[str, Any]] = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return results


def fill(url: str, folder: Path, rows: int) -> None:
    """Make the database, with so many old records: indexes cost more in a large table."""
    database = open_database(DatabaseSettings(url=url), folder, upgrade=True)
    store, minter = ResponseStore(database), IdMinter(bytes(32))
    for start in range(0, rows, FILL):
        store.append("responses", [row(minter, number) for number in range(start, min(rows, start + FILL))])
    database.close()


def size(url: str, folder: Path) -> tuple[int, int]:
    """Rows of `responses`, and bytes of the database."""
    database = open_database(DatabaseSettings(url=url), folder)
    with database.read() as connection:
        rows = connection.execute(select(func.count()).select_from(tables.responses)).scalar_one()
        query = "SELECT pg_total_relation_size('responses')"
        used = connection.execute(text(query)).scalar_one() if database.dialect == "postgresql" else 0
    database.close()
    return int(rows), int(used) or sum(path.stat().st_size for path in folder.glob("understudy.db*"))


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One kind of database, and the same without one."""
    with database_url(kind) as url, tempfile.TemporaryDirectory(prefix="understudy-events-") as name:
        folder = Path(name)
        fill(url, folder, options.rows)
        rows, _ = size(url, folder)
        jobs = [
            Job(url, name, options.rate / options.workers, options.seconds, (number + 1) << 40)
            for number in range(options.workers)
        ]
        plain = run([Job("", name, job.rate, min(job.seconds, 5.0), job.seed) for job in jobs])
        server = servers_seconds()
        found = run(jobs)
        server = servers_seconds() - server
        stored, used = size(url, folder)
    return _summary(found, plain, stored - rows, server) | {"bytes_per_record": used / stored}


def _summary(found: list[dict[str, Any]], plain: list[dict[str, Any]], stored: int, server: float) -> dict[str, Any]:
    sent = sum(one["sent"] for one in found)
    late, still = ([x for one in many for x in one["late"]] for many in (found, plain))
    idle = sum(one["process"] for one in plain) / sum(one["sent"] for one in plain)
    return {
        "sent": sent,
        "stored": stored,
        "lost": sent - stored,
        "dropped": sum(one["dropped"] for one in found),
        "backlog": max(one["backlog"] for one in found),
        "thread_per_record": sum(one["thread"] for one in found) / sent,
        "process_per_record": sum(one["process"] for one in found) / sent - idle,
        "server_per_record": server / sent,
        "stall_p99": percentile(late, 0.99),
        "stall_longest": max(late),
        "stall_p99_without": percentile(still, 0.99),
        "stall_longest_without": max(still),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """For people: µs of CPU a record, ms of stall."""
    lines = [
        "database       sent    lost  backlog   CPU/record: thread  process  server   stall p99  longest   "
        "without: p99  longest   bytes/record"
    ]
    for kind, one in results.items():
        used = "".join(f"{one[f'{name}_per_record'] * 1e6:9.2f}" for name in ("thread", "process", "server"))
        names = ("stall_p99", "stall_longest", "stall_p99_without", "stall_longest_without")
        stalls = "".join(f"{one[name] * 1e3:10.2f}" for name in names)
        counts = f"{one['sent']:8d}{one['lost']:8d}{one['backlog']:9d}"
        lines.append(f"{kind:<11}{counts}         {used}  {stalls}{one['bytes_per_record']:13.0f}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit status 1 when a record was lost."""
    parser = command.parser("events", __doc__)
    parser.add_argument("--rate", type=float, default=5000.0, help="records a second, of all processes together")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the database")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=200_000, help="records that are there before")
    parser.add_argument("--databases", default=",".join(KINDS), help="with commas; default: %(default)s")
    options = parser.parse_args()
    results = {}
    for kind in options.databases.split(","):
        print(f"{kind}: {options.rate:.0f} a second for {options.seconds:.0f} s", file=sys.stderr, flush=True)
        results[kind] = measure(kind, options)
    command.report(table(results), {"options": {**vars(options), "out": ""}, "results": results}, options.out)
    return int(any(one["lost"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
