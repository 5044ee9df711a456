"""How many instructions the hot path takes: `python -m deploy.bench.instructions`. Needs valgrind; takes half a minute.

Instructions of user space, counted by valgrind: unlike times they do not depend on what else the machine does. The
work is deploy.bench.hot_path's; what the kernel, the event loop and the writer of records do is not in it. One process
imports everything, then forks: the counts of two children that differ in nothing but the number of requests are
subtracted. The spread from run to run is below 1 %.

An interpreter of another version or build takes other numbers, so `reference` counts a piece of Python that has
nothing to do with this project. Budgets are multiples of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.compiled import prefer

WARM_UP = 30
REQUESTS, STREAMS, CHUNKS, ROUNDS = 300, 10, 64, 500
# What each child does besides warming up: (whole answers, streams, chunks of each stream, rounds of the reference).
CHILDREN = {
    "none": (0, 0, 0, 0),
    "requests": (REQUESTS, 0, 0, 0),
    "streams": (0, STREAMS, CHUNKS, 0),
    "heads": (0, STREAMS, 0, 0),
    "rounds": (0, 0, 0, ROUNDS),
}
FIXED = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


class CouldNotCount(Exception):
    """There is no count; the message says why."""


def count(tool: str = "cachegrind", folder: Path | None = None) -> dict[str, float]:
    """Instructions per `request`, `stream` (without chunks), `chunk` and round of the `reference`.

    Raises CouldNotCount.

    `tool`: cachegrind counts, callgrind also says where (slower); `folder`: where its files stay.
    """
    if shutil.which("valgrind") is None:
        raise CouldNotCount("valgrind is not installed: apt-get install valgrind")
    with tempfile.TemporaryDirectory(prefix="understudy-instructions-") as scratch:
        counts = _children(tool, Path(folder or scratch))
    streamed = counts["streams"] - counts["heads"]
    return {
        "request": (counts["requests"] - counts["none"]) / REQUESTS,
        "stream": (counts["heads"] - counts["none"]) / STREAMS,
        "chunk": streamed / (STREAMS * CHUNKS),
        "reference": (counts["rounds"] - counts["none"]) / ROUNDS,
    }


def _children(tool: str, folder: Path) -> dict[str, int]:
    options = ["--cache-sim=no"] if tool == "cachegrind" else ["--dump-instr=no"]
    out = f"--{tool}-out-file={folder}/{tool}.%p"
    command = ["valgrind", f"--tool={tool}", *options, out, sys.executable, "-m", __spec__.name, "--run"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | FIXED, timeout=300, check=False, cwd=_root()
    )
    if done.returncode:
        raise CouldNotCount(f"valgrind failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    pids = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: _total(folder / f"{tool}.{pid}") for name, pid in pids.items()}


def _root() -> Path:
    return Path(__file__).parents[2]


def _total(path: Path) -> int:
    """The sum that a tool's file ends with."""
    for line in reversed(path.read_text().splitlines()):
        if line.startswith(("summary:", "totals:")):
            return int(line.split()[1])
    raise CouldNotCount(f"{path} holds no sum")


class Part:
    """A piece of the reference."""

    __slots__ = ("name", "seen")

    def __init__(self, name: bytes) -> None:
        self.name, self.seen = name, 0

    def see(self, given: dict[bytes, bytes]) -> bytes:
        """Look something up, count it, and write it down."""
        self.seen += 1
        return b"%b: %b\r\n" % (self.name, given.get(self.name, b""))


def reference(rounds: int) -> int:
    """What relays are made of: calls, objects, dictionaries and bytes. Returns how many bytes it wrote."""
    given = {b"name-%d" % number: b"value" for number in range(10)}
    written = 0
    for _ in range(rounds):
        parts = [Part(name) for name in given]
        text = b"".join([part.see(given) for part in parts])
        written += len(text.replace(b"value", b"another")) + text.find(b"name-9") + len(text.split(b"\r\n"))
    return written


def run() -> None:
    """Under valgrind: fork a child for each kind of work, and print which process did which."""
    import uvloop

    prefer()
    from deploy.bench.hot_path import hot_path

    async def work(requests: int, streams: int, chunks: int, rounds: int) -> None:
        with hot_path() as path:
            reference(WARM_UP + rounds)
            path.requests(WARM_UP + requests)
            path.streams(2)
            path.streams(streams, chunks)
            if path.events.rows != WARM_UP + requests + 2 + streams:
                raise CouldNotCount(f"{path.events.rows} requests were accounted for")

    pids = {}
    for name, amounts in CHILDREN.items():
        pid = os.fork()
        if not pid:
            uvloop.run(work(*amounts))
            os._exit(0)
        pids[name] = pid
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise CouldNotCount(f"the child for {name} failed")
    print(json.dumps(pids))


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.instructions", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="keep callgrind's files, for callgrind_annotate")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run()
        return 0
    try:
        if options.profile:
            options.profile.mkdir(parents=True, exist_ok=True)
        counts = count("callgrind" if options.profile else "cachegrind", options.profile)
    except CouldNotCount as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(counts))
    else:
        print("\n".join(f"{name:<8} {value:10,.0f} instructions" for name, value in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
