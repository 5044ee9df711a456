"""CPU time of a process and all below it, and of a core, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def tree(root: int) -> set[int]:
    """`root` and every process below it."""
    children = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        children[int(stat.rpartition(")")[2].split()[1])].append(int(process.name))
    found, ahead = set[int](), [root]
    while ahead:
        pid = ahead.pop()
        found.add(pid)
        ahead += children[pid]
    return found


def seconds(root: int) -> float:
    """CPU seconds that the process tree of `root` has used so far, to the nanosecond where the kernel counts them."""
    return sum(process_seconds(pid) for pid in tree(root))


def process_seconds(pid: int) -> float:
    """CPU seconds that one process has used so far; 0 when it is gone."""
    folder = Path("/proc", str(pid))
    try:
        total = sum(int((task / "schedstat").read_text().split()[0]) for task in (folder / "task").iterdir()) / 1e9
        return total or _of_process_in_ticks(folder)
    except OSError:  # a thread ended while we looked, or this kernel keeps no schedstat
        return _of_process_in_ticks(folder)


def _of_process_in_ticks(folder: Path) -> float:
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK


def core_busy(core: int) -> float:
    """Seconds `core` was busy so far with anything at all, stolen time included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) * TICK
    return 0.0


def plan() -> dict[str, int | None]:
    """Which core the relay gets, which the stand-in upstream and which the load; None: too few cores to pin."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return {"relay": None, "upstream": None, "load": None}
    return {"relay": cores[0], "upstream": cores[1], "load": cores[2] if len(cores) > 2 else cores[1]}


def pinned(core: int | None, command: list[str]) -> list[str]:
    """`command`, kept on one core."""
    return command if core is None else ["taskset", "-c", str(core), *command]
