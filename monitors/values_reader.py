"""Reads the values file of one process (see monitors/shared_values.py) without touching the process."""

from __future__ import annotations

import fcntl
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from monitors.conventions import METRICS
from monitors.shared_values import SERIES, layout

Key = tuple[str, tuple[str, ...]]        # a metric's name, label values
Values = dict[Key, list[float]]
Times = dict[Key, float]

KNOWN = {metric.name: metric for metric in METRICS}


@dataclass(slots=True)
class Snapshot:
    """What one process counted. Times in seconds since the epoch."""

    values: Values = field(default_factory=dict)
    added: Times = field(default_factory=dict)
    dropped: Times = field(default_factory=dict)


def read(path: Path) -> Snapshot:
    """One process's series. If a slot changes hands meanwhile, the list of series has grown, and we read again."""
    names = path.with_suffix(SERIES)
    for _ in range(5):
        lines = names.read_bytes()
        values = _floats(path)
        if names.stat().st_size == len(lines):
            break
    taken: dict[int, Key] = {}
    found = Snapshot()
    for line in lines.split(b"\n")[:-1]:      # a last line without its end was never finished
        entry = orjson.loads(line)
        if entry[0] == "drop":
            key = taken.pop(entry[1], None)
            if key is not None:
                del found.values[key]
                found.dropped[key] = entry[2]
            continue
        _, slot, at, width, checksum, name, labels = entry
        metric = KNOWN.get(name)
        if metric is not None and layout(metric) == checksum and slot + width <= len(values):
            key = (name, tuple(labels))
            taken[slot] = key
            found.values[key] = values[slot : slot + width]
            found.added[key] = at
    return found


def _floats(path: Path) -> list[float]:
    """One aligned 8-byte load through a mapping for each: never half an old and half a new number."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        numbers = view.cast("d")
        try:
            return list(numbers)
        finally:
            numbers.release()
            view.release()


def is_held(path: Path) -> bool:
    """True while the process that made the file lives: it holds a lock that the kernel takes away with it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
