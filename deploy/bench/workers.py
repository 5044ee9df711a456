"""More workers: `python -m deploy.bench.workers`. CPU a request with 1, 2 and 4 workers, and what two cores can do.

Load and stand-in engine need cores of their own, so that on a small machine the requests a second say little; the CPU
time a request says whether a worker gets dearer because there are others.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploy.bench import command
from deploy.bench.control_site import ROUTE, running
from deploy.bench.databases import KINDS, database_url
from deploy.bench.load import Work
from deploy.bench.measure import load

SETTLE = 2.0  # seconds until a version serves


def measure(kind: str, counts: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Medians over the rounds, by number of workers."""
    found: dict[str, Any] = {}
    for workers in counts:
        print(f"{kind}: {workers} worker(s)", file=sys.stderr, flush=True)
        with (
            database_url(kind) as url,
            tempfile.TemporaryDirectory(prefix="understudy-workers-") as folder,
            running(Path(folder), url, workers) as site,
        ):
            site.operate("PUT", f"/api/v1/routes/{ROUTE}/version", {"version": site.versions[0]})
            time.sleep(SETTLE)
            work = Work(site.url, connections=64, seconds=seconds, model=ROUTE, pid=site.server.pid)
            results = [load(work, None) for _ in range(rounds)]
        found[str(workers)] = {
            "cpu_per_request": statistics.median(one["cpu_per_request"] for one in results),
            "requests_per_second": statistics.median(one["requests"] / seconds for one in results),
            "errors": sum(sum(one["errors"].values()) for one in results),
        }
    return found


def table(results: dict[str, Any]) -> str:
    """Microseconds of CPU of the gateway's process tree, and requests a second of the whole machine."""
    lines = ["database     workers   CPU a request   requests/s   failed"]
    for kind, counts in results.items():
        for workers, one in counts.items():
            used = f"{one['cpu_per_request'] * 1e6:13.1f} us{one['requests_per_second']:13,.0f}{one['errors']:9d}"
            lines.append(f"{kind:<12}{workers:>8}{used}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write. Exit status 1 when a request failed."""
    parser = command.parser("workers", __doc__)
    parser.add_argument("--workers", default="1,2,4", help="with commas; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--databases", default=",".join(KINDS), help="with commas; default: %(default)s")
    options = parser.parse_args()
    counts = [int(count) for count in options.workers.split(",")]
    results = {
        kind: measure(kind, counts, options.rounds, options.seconds) for kind in options.databases.split(",")
    }
    command.report(table(results), results, options.out)
    return int(any(one["errors"] for counts_of in results.values() for one in counts_of.values()))


if __name__ == "__main__":
    sys.exit(main())
