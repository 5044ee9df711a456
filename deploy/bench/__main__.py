"""`make bench`: what the gateway costs beside nginx and other relays, in one run on this machine.

A fast stand-in plays the engine. CPU time is that of a relay's whole process tree, from /proc; the relay has one core,
the stand-in and the load have another. Requests come from 64 connections without a pause; streams have 64 chunks 5 ms
apart, and their CPU time includes the request's own share. Added latency is that of a single client, minus the
latency without a relay. Afterwards a thousand streams at once (deploy.bench.streams), unless --no-streams is given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.bench import cpu, plot, report, streams
from deploy.bench.measure import Plan, measure
from deploy.bench.peers import ASKED_FOR, PEERS
from deploy.bench.processes import CouldNotStart
from gateway.compiled import why_not


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pinned": cpu.plan(),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=…", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=64)
    usual = ",".join(name for name in PEERS if name not in ASKED_FOR)
    more = ", ".join(ASKED_FOR)
    parser.add_argument("--peers", default=usual, help=f"with commas, also {more}; default: %(default)s")
    parser.add_argument("--no-streams", action="store_true", help="leave out the thousand streams")
    parser.add_argument("--out", type=Path, help="JSON file; default: bench-results/<time>.json")
    options = parser.parse_args()
    unknown = [name for name in options.peers.split(",") if name not in PEERS]
    if unknown:
        parser.error(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    if options.rounds < 1 or options.seconds <= 0 or options.connections < 1:
        parser.error("--rounds, --seconds and --connections must be positive")
    return options


def interpreted() -> list[str]:
    """A word on figures that were not got from the machine code; nothing when they were."""
    reason = why_not()
    return [f"Understudy's hot path ran interpreted, which takes twice the CPU: {reason}"] if reason else []


def main() -> int:
    """Measure, print, write. Exit status 1 when a peer failed requests or this project could not be measured."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends every server
    rounds, seconds = (2, 1.0) if options.quick else (options.rounds, options.seconds)
    plan = Plan(tuple(options.peers.split(",")), rounds, seconds, options.connections)
    now = datetime.datetime.now().astimezone()
    try:
        results = measure(plan, lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    summaries = report.summary(results)
    notes = report.remarks(results, summaries) + interpreted()
    print("\n" + report.table(summaries) + "\n")
    for note in notes:
        print(f"- {note}")
    out = options.out or Path("bench-results") / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    many = None if options.no_streams else _streams(options.quick)
    document = {
        "date": now.isoformat(timespec="seconds"), "machine": machine(), "plan": asdict(plan), "summary": summaries,
        "noise": report.noise(results), "remarks": notes, "could_not_start": results.could_not_start,
        "rounds": results.rounds, "streams": many,
    }  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1))
    except OSError as error:
        print(f"{out} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"\nwritten to {out}")
    print(plot.draw(summaries, out.with_suffix(".svg")))
    failed = any(s["errors"] for s in summaries.values()) or (many is not None and streams.failed(many))
    return int(failed or "understudy" in results.could_not_start)


def _streams(quick: bool) -> dict[str, Any] | None:
    """Many streams at once, printed; None when they could not be measured."""
    amounts = streams.Amounts(streams=200, seconds=2.0, rounds=1, idle=500) if quick else streams.Amounts()
    try:
        found = streams.run(amounts, lambda text: print(text, file=sys.stderr, flush=True))
    except (CouldNotStart, OSError, TimeoutError) as error:
        print(f"\nmany streams could not be measured: {error}")
        return None
    print("\n" + "\n".join(f"- {line}" for line in streams.lines(found, amounts)))
    return found


if __name__ == "__main__":
    sys.exit(main())
