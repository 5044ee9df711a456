"""`python -m deploy.proof.rollouts [--seeds 0,1,2] [--only NAME,…] [--out FILE]`: rollouts on the real stack.

A real vLLM on the demo base, real workers, users in a process of their own. Each scenario rolls a candidate out that is
good or bad in one way, with a plan whose steps last seconds. Exit status 0 only if each ended as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from adapters import adapter_tensors
from adapters.base import read_base, resolve_base
from deploy.proof.one_refuses import stack_of
from deploy.proof.scenarios import SCENARIOS, Scenario, make_adapters
from gateway.cli_support import open_context
from trainer.demo.crowd import Asked, read
from trainer.demo.rollout import crowd, follow, plan_text
from trainer.demo.stack import Stack, graded

BEFORE = 6.0             # seconds of users before the rollout, at least: what stable is like
ENOUGH = 60              # answers by then
SLOWER = 2.0             # an answer is slow that takes so many times what 95 % took before, or scenario.objective
STEPS = 2.5              # times the longest step that a scenario may take
GRADER = "trainer.demo.graders:right"


def run_scenario(stack: Stack, scenario: Scenario, seed: int) -> dict[str, Any]:
    """One rollout from start to end; what was measured."""
    stable = stack.versions[scenario.stable]
    candidates = [stack.versions[name] for name in (scenario.candidate, *scenario.rivals)]
    _prepare(stack, stable, candidates)
    plan = stack.directory / "plan.toml"
    observed = stack.directory / f"{scenario.name}-{seed}.jsonl"
    longest = STEPS * scenario.longest
    with crowd(stack, observed, seed, seconds=longest + 120, rare=scenario.rare, users=scenario.users):
        objective = max(scenario.objective, SLOWER * _usual(observed))
        plan.write_text(plan_text(scenario.sample, objective, scenario.weights, scenario.longest))
        began = time.time()
        stack.understudy("rollout", "start", "support", *candidates, "--plan", str(plan))
        row = follow(stack, "support", longest, lambda text: print(f"    {text}", flush=True))
        time.sleep(2.0)
    seen = [o for o in read(observed) if o.at >= began]
    if row["ended_at"] is None:
        stack.understudy("rollout", "rollback", "support", "--reason", "the proof goes on")
    return {"scenario": scenario.name, "seed": seed, **_measured(row, seen, candidates, began)}


def _usual(observed: Path) -> float:
    """Seconds that most of stable's answers take on this machine now: an objective means nothing without it."""
    seen: list[float] = []
    deadline = time.monotonic() + 10 * BEFORE
    while time.monotonic() < deadline:
        time.sleep(BEFORE)
        seen = sorted(o.ended - o.at for o in read(observed) if o.status == 200)
        if len(seen) >= ENOUGH:
            break
    return seen[int(0.95 * len(seen))] if seen else 0.0


def _prepare(stack: Stack, stable: str, candidates: list[str]) -> None:
    """Stable serves; the candidates may."""
    listed = json.loads(stack.understudy("adapter", "list", "--json"))
    stages = {entry["version"]: entry["stage"] for entry in listed}
    for version in (stable, *candidates):
        if stages[version] == "quarantined":
            stack.understudy("adapter", "release", version, "--reason", "the proof needs it again")
    stack.understudy("route", "set", "support", stable)
    for version in candidates:
        stack.understudy("gate", version, "--override", "a proof")


def _measured(row: dict[str, Any], seen: list[Asked], candidates: list[str], began: float) -> dict[str, Any]:
    ended = row["ended_at"] or time.time()
    served = [o for o in seen if o.version in candidates]
    failed = [o for o in seen if o.status != 200 or o.error]
    late = [o.at - ended for o in served if o.at > ended] if row["phase"] == "rolled_back" else []
    return {
        "ended": row["phase"] if row["ended_at"] else ("held" if row["hold"] else "unfinished"),
        "reason": row["reason"],
        "seconds": round(ended - began, 1),
        "requests": len(seen),
        "requests_failed": len(failed),
        "failed_outside_the_candidate": sum(o.version not in candidates for o in failed),
        "served_by_candidate_before_the_end": sum(o.at <= ended for o in served),
        "served_by_each": {v: sum(o.at <= ended and o.version == v for o in served) for v in candidates},
        "candidates": {c["version"]: c["state"] for c in row["candidates"]},
        "feedbacks": sum(o.thumb is not None for o in seen if o.at <= ended),
        "seconds_until_last_request_on_candidate": round(max(late, default=0.0), 3),
        "errors": sorted({o.error[:80] for o in failed if o.error})[:3],
    }


def prove(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every wanted scenario with every seed: one stack for those with one engine, another for those with two."""
    print("making the adapters …", flush=True)
    adapters = make_adapters(Path(options.adapters) if options.adapters else folder / "adapters")
    wanted = [s for s in SCENARIOS if not options.only or s.name in options.only.split(",")]
    rewards = graded(GRADER)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results = []
    if alone := [s for s in wanted if s.engines == 1]:
        with _stopped(Stack(folder / "one", workers=2, more=rewards)) as stack:
            results += _all(stack, adapters, alone, seeds)
    if pairs := [s for s in wanted if s.engines == 2]:
        with stack_of(folder / "two", rewards) as stack:
            results += _all(stack, adapters, pairs, seeds)
    return results


@contextlib.contextmanager
def _stopped(stack: Stack) -> Iterator[Stack]:
    try:
        yield stack
    finally:
        stack.stop()


def _all(
    stack: Stack, adapters: dict[str, Path], scenarios: list[Scenario], seeds: list[int]
) -> list[dict[str, Any]]:
    for name, path in adapters.items():
        if name == "poison":
            stack.versions[name] = _push_unchecked(stack, path)
        else:
            stack.push(name, path, "support")
    stack.start()
    results = []
    for scenario in scenarios:
        for seed in seeds:
            print(f"{scenario.name}, seed {seed}: {scenario.what}", flush=True)
            result = run_scenario(stack, scenario, seed)
            dropped = [version for version, state in result["candidates"].items() if state == "dropped"]
            alone = not scenario.rivals or dropped == [stack.versions[scenario.candidate]]
            result["as_expected"] = result["ended"] in scenario.expected and alone
            print(json.dumps(result), flush=True)
            results.append(result)
    return results


def _push_unchecked(stack: Stack, directory: Path) -> str:
    """Registers an adapter with values that `adapter push` refuses (adapters.adapter_tensors).

    Within those limits nothing overflows on a base as small as the demo's; on one with wide layers it can.
    """
    with open_context(stack.config) as context, patch.object(adapter_tensors, "_check_values"):
        base = read_base(resolve_base("demo"), context.settings.data_dir / "cache")
        return context.registry.push(directory, "support", base=base, max_rank=16).name


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per scenario; the range over the seeds."""
    lines = [
        "| scenario | ended | seconds | answers by the candidate | feedbacks | failed requests | last on it after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(r["scenario"] for r in results):
        rows = [r for r in results if r["scenario"] == name]
        ended = ", ".join(f"{sum(r['ended'] == e for r in rows)} {e}" for e in dict.fromkeys(r["ended"] for r in rows))
        names = ("seconds", "served_by_candidate_before_the_end", "feedbacks", "requests_failed")
        cells = [_range([r[key] for r in rows]) for key in names]
        last = max(r["seconds_until_last_request_on_candidate"] for r in rows)
        lines.append(f"| {name} | {ended} | " + " | ".join(cells) + f" | {last:.2f} s |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:g}" if low == high else f"{middle:g} ({low:g} to {high:g})"


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="names of scenarios, with commas between")
    parser.add_argument("--adapters", help="folder where the adapters are, or will be kept")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="understudy-", ignore_cleanup_errors=True) as folder:
        results = prove(Path(folder), options)
    print(table(results))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if results and all(r["as_expected"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
