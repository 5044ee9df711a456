"""What the screening costs and what it catches: `python -m deploy.bench.screening`.

One worker, one route for each mode. Latencies are a client's, with a stand-in for the guard whose speed is set; what is
caught is measured with the real guard service and the demo's checkpoint, on held-out texts of its made-up world. Modes
take turns request by request, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from deploy.bench import command
from deploy.bench.__main__ import machine
from deploy.bench.load import percentile
from deploy.bench.screening_site import ROUTES, Site, site
from deploy.bench.screening_texts import f1_by_prefix, leaks

Rows = list[dict[str, Any]]
FIRST = 0.05  # seconds until the engine's first token
FASTER, SLOWER = 0.01, 0.15  # seconds the guard takes
GAP = 0.005  # seconds between two tokens
STATES = {"no other load": "", "well": "[guard 0.005]", "10x load": "[busy 0.1]", "killed": "x"}  # → prompt
RATE = 100.0  # requests a second on the screened route; the guard that is too slow manages a tenth


@dataclass
class Seen:
    """One answer: the status, and when each of its tokens came (seconds after the request)."""

    status: int
    text: str
    times: list[float]
    took: float


async def ask(session: aiohttp.ClientSession, route: str, content: str, **told: Any) -> Seen:
    """One request; streamed where `stream`."""
    stream = bool(told.pop("stream", True))
    body = {"model": route, "stream": stream, "messages": [{"role": "user", "content": content}], "metadata": told}
    began, times, pieces = time.perf_counter(), [], []
    async with session.post("/v1/chat/completions", json=body) as response:
        if not stream or response.status != 200:
            text = await response.text()
            return Seen(response.status, text, [], time.perf_counter() - began)
        async for line in response.content:
            if line.startswith(b'data: {"id"'):
                choices = json.loads(line[6:])["choices"]
                if choices and (said := choices[0]["delta"].get("content")):
                    times.append(time.perf_counter() - began)
                    pieces.append(said)
    return Seen(200, "".join(pieces), times, time.perf_counter() - began)


async def first_tokens(session: aiohttp.ClientSession, rounds: int) -> Rows:
    """Time to first token of safe prompts, by the guard's speed and the mode."""
    rows = []
    for name, delay in (("faster", FASTER), ("slower", SLOWER)):
        found: dict[str, list[float]] = {route: [] for route in ROUTES[:3]}
        for number in range(rounds):
            for route, times in found.items():
                seen = await ask(session, route, f"{number} [guard {delay}]", say="a b c", wait=str(FIRST))
                times.append(seen.times[0])
        off = found["off"]
        for route, times in found.items():
            rows.append({"guard": name, "mode": route, **spread(times), "added_p50": at(times, 50) - at(off, 50),
                         "added_p99": at(times, 99) - at(off, 99)})  # fmt: skip
    return rows


async def between_tokens(session: aiohttp.ClientSession, rounds: int) -> Rows:
    """Gaps between tokens of a safe stream of 300, and when its first one came."""
    say = " ".join(f"w{number}" for number in range(300))
    gaps: dict[str, list[float]] = {route: [] for route in ("off", "audit", "enforce")}
    firsts: dict[str, list[float]] = {route: [] for route in gaps}
    totals: dict[str, list[float]] = {route: [] for route in gaps}
    for number in range(rounds):
        for route, found in gaps.items():
            seen = await ask(session, route, f"{number} [guard {FASTER}]", say=say, gap=str(GAP))
            found += [after - before for before, after in zip(seen.times, seen.times[1:], strict=False)]
            firsts[route].append(seen.times[0])
            totals[route].append(seen.took)
    return [
        {"mode": route, **spread(found), "longest": max(found), "first_p50": at(firsts[route], 50),
         "total_p50": at(totals[route], 50), "added_p99": at(found, 99) - at(gaps["off"], 99)}
        for route, found in gaps.items()
    ]  # fmt: skip


async def unscreened(place: Site, session: aiohttp.ClientSession, seconds: float) -> Rows:
    """Latency on a route without screening while another one is screened, by the state of the guard."""
    rows = []
    for state, content in STATES.items():
        if state == "killed":
            place.kill_guard()
        load = asyncio.create_task(at_rate(session, content, seconds)) if content else None
        times: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            times.append((await ask(session, "off", "hi", stream=False, say="fine")).took)
            await asyncio.sleep(0.005)
        statuses = await load if load else {}
        rows.append({"guard": state, **spread(times), "requests": len(times), "screened": statuses})
    return rows


async def at_rate(session: aiohttp.ClientSession, content: str, seconds: float) -> dict[str, int]:
    """RATE requests a second on the screened route, whatever becomes of them; how many ended with which status."""
    tasks = []
    for number in range(int(RATE * seconds)):
        tasks.append(asyncio.create_task(ask(session, "enforce", f"{number} {content}", stream=False, say="fine")))
        await asyncio.sleep(1 / RATE)
    found: dict[str, int] = {}
    for seen in await asyncio.gather(*tasks):
        found[str(seen.status)] = found.get(str(seen.status), 0) + 1
    return found


def at(values: Sequence[float], percent: float) -> float:
    """A percentile, in seconds."""
    found = percentile(list(values), percent / 100)
    assert found is not None
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99, in seconds."""
    return {"p50": at(values, 50), "p99": at(values, 99)}


async def measure(options: argparse.Namespace) -> dict[str, Rows]:
    """Everything, part by part."""
    found: dict[str, Rows] = {}
    with tempfile.TemporaryDirectory(prefix="understudy-screening-") as folder:
        first, second = Path(folder) / "a", Path(folder) / "b"
        first.mkdir()
        second.mkdir()
        with site(first, real_guard=False) as place:
            async with session_of(place) as session:
                say("time to first token")
                found["first_token"] = await first_tokens(session, options.rounds)
                say("between tokens")
                found["between_tokens"] = await between_tokens(session, max(2, options.rounds // 10))
                say("routes without screening")
                found["unscreened"] = await unscreened(place, session, options.seconds)
        with site(second, real_guard=True) as place:
            async with session_of(place) as session:
                say("leaks")
                found["leaks"] = await leaks(partial(ask, session), place.guard, options.texts)
                say("F1 by prefix")
                found["f1_by_prefix"] = await f1_by_prefix(place.guard, options.texts)
    return found


def session_of(place: Site) -> aiohttp.ClientSession:
    """A client with as many connections as it likes."""
    return aiohttp.ClientSession(place.url, connector=aiohttp.TCPConnector(limit=0))


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def table(found: dict[str, Rows]) -> str:
    """Every part as lines; times in milliseconds."""
    lines = []
    for part, rows in found.items():
        lines.append(part.replace("_", " "))
        for row in rows:
            cells = [f"{key} {value * 1e3:.2f} ms" if isinstance(value, float) and key in TIMES
                     else f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in row.items()]  # fmt: skip
            lines.append("  " + "  ".join(cells))
    return "\n".join(lines)


TIMES = frozenset({"p50", "p99", "added_p50", "added_p99", "longest", "first_p50", "total_p50"})


def main() -> int:
    """Measure, print, write. Exit status 1 when anything leaked in enforce."""
    parser = command.parser("screening", __doc__)
    parser.add_argument("--rounds", type=int, default=100, help="requests of each kind for the time to first token")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each state of the guard")
    parser.add_argument("--texts", type=int, default=200, help="texts of each kind for leaks and F1")
    options = parser.parse_args()
    if min(options.rounds, options.texts) < 2 or options.seconds <= 0:
        parser.error("--rounds and --texts must be 2 or more, --seconds positive")
    found = asyncio.run(measure(options))
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    command.report(table(found), {"date": date, "machine": machine(), **found}, options.out)
    return int(any(row["leaked_tokens"] for row in found["leaks"] if row["mode"] == "enforce"))


if __name__ == "__main__":
    sys.exit(main())
