"""Runs every peer in interleaved rounds, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.bench import cpu
from deploy.bench.load import Work
from deploy.bench.peers import PEERS, Running, Site
from deploy.bench.processes import CouldNotStart, free_port, started, wait_ready

Round = dict[str, dict[str, Any]]  # phase → what deploy.bench.load printed


@dataclass(frozen=True)
class Plan:
    """How long to measure what."""

    peers: tuple[str, ...]
    rounds: int = 5
    seconds: float = 2.0
    connections: int = 64

    def phases(self) -> dict[str, dict[str, Any]]:
        """one: latency without queueing; many: CPU per request; stream: CPU per chunk, time to first token."""
        many = {"connections": self.connections, "seconds": self.seconds}
        return {
            "one": {"connections": 1, "seconds": self.seconds / 2},
            "many": many,
            "stream": many | {"stream": True, "seconds": self.seconds * 1.5},
        }


@dataclass
class Results:
    """Rounds by peer, and why a peer has none."""

    rounds: dict[str, list[Round]]
    could_not_start: dict[str, str]


def measure(plan: Plan, say: Callable[[str], None]) -> Results:
    """All peers are started once and stay up; a round asks each in turn, every round in another order."""
    cores = cpu.plan()
    results = Results({}, {})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-bench-")))
        upstream = stack.enter_context(stand_in(folder, cores["upstream"]))
        site = Site(upstream, folder, cores["relay"], cores["load"])
        running: dict[str, Running] = {}
        for name in plan.peers:
            try:
                running[name] = stack.enter_context(PEERS[name][1](site))
            except CouldNotStart as error:
                results.could_not_start[name] = str(error)
                say(f"{name} could not be started: {error}")
        for number in range(plan.rounds):
            names = list(running)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                say(f"round {number + 1} of {plan.rounds}: {name}")
                results.rounds.setdefault(name, []).append(_one_round(plan, running[name], cores))
    return results


def _one_round(plan: Plan, peer: Running, cores: dict[str, int | None]) -> Round:
    phases = {}
    for phase, options in plan.phases().items():
        work = Work(url=peer.url, model=peer.model, key=peer.key, pid=peer.pid, core=cores["relay"], **options)
        phases[phase] = load(work, cores["load"])
    return phases


def load(work: Work, core: int | None) -> dict[str, Any]:
    """Run the load generator in a process of its own."""
    command = cpu.pinned(core, [sys.executable, "-m", "deploy.bench.load", json.dumps(asdict(work))])
    done = subprocess.run(command, capture_output=True, text=True, timeout=work.seconds + 60, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"requests": 0, "errors": {f"the load generator failed: {last}": 1}}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def stand_in(folder: Path, core: int | None, *pace: str) -> Iterator[str]:
    """The upstream; yields its URL. `pace`: chunks of a stream and seconds between them."""
    port, log = free_port(), folder / "upstream.log"
    url = f"http://127.0.0.1:{port}"
    with started([sys.executable, "-m", "deploy.bench.upstream", str(port), *pace], log, core) as process:
        wait_ready(process, log, url, "/health")
        yield url
