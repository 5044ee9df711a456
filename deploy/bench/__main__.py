"""`make bench`: what the gateway costs beside nginx and other relays, in one run on this machine.

A fast stand-in plays the engine. CPU time is that of a relay's whole process tree, from /proc; the relay has one core,
the stand-in and the load have another. Requests come from 64 connections without a pause; streams have 64 chunks 5 ms
apart, and their CPU time includes the request's own share. Added latency is that of a single client, minus the
latency without a relay.
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

from deploy.bench import cpu, report
from deploy.bench.measure import Plan, measure
from deploy.bench.peers import PEERS


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
    parser.add_argument("--peers", default=",".join(PEERS), help="with commas; default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file; default: bench-results/<time>.json")
    options = parser.parse_args()
    unknown = [name for name in options.peers.split(",") if name not in PEERS]
    if unknown:
        parser.error(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    if options.rounds < 1 or options.seconds <= 0 or options.connections < 1:
        parser.error("--rounds, --seconds and --connections must be positive")
    return options


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
    notes = report.remarks(results, summaries)
    print("\n" + report.table(summaries) + "\n")
    for note in notes:
        print(f"- {note}")
    out = options.out or Path("bench-results") / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    document = {
        "date": now.isoformat(timespec="seconds"), "machine": machine(), "plan": asdict(plan), "summary": summaries,
        "noise": report.noise(results), "remarks": notes, "could_not_start": results.could_not_start,
        "rounds": results.rounds,
    }  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1))
    except OSError as error:
        print(f"{out} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"\nwritten to {out}")
    failed = any(s["errors"] for s in summaries.values())
    return int(failed or "understudy" in results.could_not_start)


if __name__ == "__main__":
    sys.exit(main())
