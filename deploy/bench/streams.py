"""Many streams at once: `python -m deploy.bench.streams`. One worker with everything on, one core; about two minutes.

- pace: 1,000 streams of 20 tokens a second, directly and through the gateway, in turn. Added are the differences of
  the two runs' percentiles.
- held: streams on which the engine is silent, and what each costs in memory.
- slow: clients that read nothing of answers of 64 MiB: what the gateway keeps of them, and the engine gets rid of.
- idle: 10,000 keep-alive connections that have been answered once, and whether they are answered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from deploy.bench import command, cpu
from deploy.bench.load import Work
from deploy.bench.measure import load, stand_in
from deploy.bench.ours import understudy
from deploy.bench.site import Running, Site
from deploy.bench.waiting import PATIENCE, connections, request

SPARE = 200  # open files that a process needs beside its connections
Results = dict[str, Any]


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    streams: int = 1000
    rate: float = 20.0  # tokens a second
    length: float = 5.0  # seconds of one stream
    seconds: float = 10.0
    rounds: int = 2
    slow: int = 50
    idle: int = 10_000


def resident(pid: int) -> int:
    """Bytes of memory of a process tree."""
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in cpu.tree(pid))
    return pages * resource.getpagesize()


def pace(gateway: Running, engine: str, amounts: Amounts) -> Results:
    """Percentiles of the first token and of the gaps, by way; medians over the rounds."""
    cores = cpu.plan()
    ways = {"direct": (engine, "base", "", 0), "gateway": (gateway.url, gateway.model, gateway.key, gateway.pid)}
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(amounts.rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            url, model, key, pid = ways[way]
            ramp = amounts.streams / 200  # as many new ones a second
            work = Work(url, amounts.streams, amounts.seconds, 1.0, True, model, key, pid, cores["relay"], ramp=ramp)
            rounds[way].append(load(work, cores["load"]))
    names = ("first_p50", "first_p99", "gap_p50", "gap_p99")
    found: Results = {way: {name: _median(of, name) for name in names} for way, of in rounds.items()}
    found["added"] = {name: found["gateway"][name] - found["direct"][name] for name in names}
    found["events_per_second"] = statistics.median(r["events"] / r["seconds"] for r in rounds["gateway"])
    found["core"] = statistics.median(r["cpu_share"] for r in rounds["gateway"])
    found["failures"] = sum(sum(r["errors"].values()) for of in rounds.values() for r in of)
    return found


def _median(rounds: list[dict[str, Any]], name: str) -> float:
    return statistics.median(float(r.get(name) or 0) for r in rounds)


async def held(gateway: Running, count: int) -> Results:
    """Memory of a stream on which nothing happens."""
    first = await connections(gateway.url, 20, request(gateway, "[hold]", True), lambda seen: b"token" in seen)
    before = resident(gateway.pid)
    clients = await connections(gateway.url, count, request(gateway, "[hold]", True), lambda seen: b"token" in seen)
    grown = resident(gateway.pid) - before
    lost = sum(client.lost for client in clients)
    for client in (*first, *clients):
        client.transport.abort()
    return {"streams": count, "bytes_per_stream": grown / count, "lost": lost}


async def slow(gateway: Running, count: int) -> Results:
    """Clients that read the first bytes of a flood, and no more."""
    before = resident(gateway.pid)
    flood = request(gateway, "[flood]", True)
    clients = []
    for _ in range(count):  # one at a time, and stopped at once: else they would read on while the next one connects
        [client] = await connections(gateway.url, 1, flood, lambda seen: True, buffer=64 * 1024)
        client.transport.pause_reading()
        clients.append(client)
    await asyncio.sleep(3.0)
    grown = resident(gateway.pid) - before
    started = time.perf_counter()
    [witness] = await connections(gateway.url, 1, request(gateway, "hi", False), lambda seen: seen.endswith(b"}"))
    others = time.perf_counter() - started
    for client in (*clients, witness):
        client.transport.abort()
    return {"clients": count, "bytes_per_client": grown / count, "another_request_seconds": others}


async def idle(gateway: Running, wanted: int) -> Results:
    """Keep-alive connections: each answered, all held, a sample answered again."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(wanted, most - SPARE)
    before = resident(gateway.pid)
    ask, whole = request(gateway, "hi", False), lambda seen: seen.endswith(b"}")
    clients = await connections(gateway.url, count, ask, whole)
    grown = resident(gateway.pid) - before
    lost = sum(client.lost for client in clients)
    again = clients[:: max(1, count // 500)]
    for client in again:
        client.ask()
        await asyncio.wait_for(client.done, PATIENCE)
    answered = sum(client.seen.endswith(b"}") for client in again)
    for client in clients:
        client.transport.abort()
    return {
        "connections": count, "wanted": wanted, "lost": lost, "bytes_per_connection": grown / count,
        "asked_again": len(again), "answered_again": answered,
    }  # fmt: skip


def run(amounts: Amounts, say: Callable[[str], None]) -> Results:
    """Everything. Raises CouldNotStart."""
    cores = cpu.plan()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-streams-")))
        chunks = str(max(2, round(amounts.rate * amounts.length)))
        engine = stack.enter_context(stand_in(folder, cores["upstream"], chunks, str(1 / amounts.rate)))
        gateway = stack.enter_context(understudy("on")(Site(engine, folder, cores["relay"], cores["load"])))
        say(f"{amounts.streams} streams of {amounts.rate:g} tokens/s")
        found = {"pace": pace(gateway, engine, amounts), "resident": resident(gateway.pid)}
        for name, work in (
            ("held", held(gateway, amounts.streams)), ("slow", slow(gateway, amounts.slow)),
            ("idle", idle(gateway, amounts.idle)),
        ):  # fmt: skip
            say(name)
            found[name] = uvloop.run(work)
    return found


def lines(found: Results, amounts: Amounts) -> list[str]:
    """What was found, for people."""
    paced, added, idle = found["pace"], found["pace"]["added"], found["idle"]
    short = "" if idle["connections"] == idle["wanted"] else " (as many as `ulimit -n` allows)"
    return [
        f"{amounts.streams:,} streams, {paced['events_per_second']:,.0f} tokens/s: {paced['core']:.0%} of a core,"
        f" {paced['failures']} failures",
        f"added to the first token: {added['first_p50'] * 1e3:.2f} ms p50, {added['first_p99'] * 1e3:.2f} ms p99",
        f"added between tokens: {added['gap_p50'] * 1e3:.2f} ms p50, {added['gap_p99'] * 1e3:.2f} ms p99",
        f"a silent stream takes {found['held']['bytes_per_stream'] / 1024:.1f} KiB ({found['held']['lost']} lost)",
        f"a client that does not read takes {found['slow']['bytes_per_client'] / 1024:.0f} KiB of an answer of 64 MiB;"
        f" another request meanwhile takes {found['slow']['another_request_seconds'] * 1e3:.1f} ms",
        f"{idle['connections']:,} idle connections{short}: {idle['bytes_per_connection'] / 1024:.1f} KiB each,"
        f" {idle['lost']} lost, {idle['answered_again']} of {idle['asked_again']} answered again",
    ]


def failed(found: Results) -> bool:
    """Something was refused, cut or lost."""
    idle = found["idle"]
    return bool(found["pace"]["failures"] or found["held"]["lost"] or idle["lost"]
                or idle["answered_again"] != idle["asked_again"])  # fmt: skip


def main() -> int:
    """Measure, print, write. Exit status 1 when a stream failed."""
    parser = command.parser("streams", __doc__)
    for name in ("streams", "rounds", "slow", "idle"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Amounts, name))
    for name in ("rate", "length", "seconds"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Amounts, name))
    given = vars(parser.parse_args())
    out = given.pop("out")
    if min(given.values()) <= 0:
        parser.error("amounts must be positive")
    amounts = Amounts(**given)
    found = run(amounts, lambda text: print(text, file=sys.stderr, flush=True))
    command.report("\n".join(lines(found, amounts)), found, out)
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
