"""Metric values of one process in a memory-mapped file: cheap to write, readable by others, not lost with the process.

Each process owns two files in one directory: `<name>.values` holds float64 slots, `<name>.series` says in append-only
JSON lines which series occupy which slots. An increment is one aligned 8-byte store into the mapping, which survives
the process; a reader never touches the writer. The writer holds a lock on its values file for as long as it lives,
however it ends, so a reader knows the living from the dead without asking for process ids.
monitors/merged_values.py reads and merges these files.

Open it after forking, and write each series from one thread only: an increment is a read and a write.
The slots grow in segments that stay where they are, so handles stay valid. When the disk is full, new series are kept
in private memory: requests go on, those series are not exported (`unexported` counts them).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import uuid
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import orjson

from adapters.errors import ConfigError
from monitors.conventions import Metric

SEGMENT_BYTES: Final = 64 * 1024          # a multiple of every platform's page size
SEGMENT_SLOTS: Final = SEGMENT_BYTES // 8
VALUES, SERIES = ".values", ".series"

if TYPE_CHECKING:
    Slots = memoryview[float]


class Counter:
    """A value that only grows."""

    __slots__ = ("_index", "_slots")

    def __init__(self, metric: Metric, slots: Slots, index: int) -> None:
        self._slots, self._index = slots, index

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount` ≥ 0."""
        self._slots[self._index] += amount

    @property
    def value(self) -> float:
        """What this process counted."""
        return float(self._slots[self._index])


class Gauge(Counter):
    """A value that goes up and down; it goes away with its process."""

    __slots__ = ()

    def dec(self, amount: float = 1.0) -> None:
        """Subtract `amount`."""
        self._slots[self._index] -= amount

    def set(self, value: float) -> None:
        """Replace the value."""
        self._slots[self._index] = value


class Histogram:
    """Counts per bucket and the sum; values that are not finite numbers are ignored (they would spoil the sum)."""

    __slots__ = ("_bounds", "_index", "_slots", "_sum")

    def __init__(self, metric: Metric, slots: Slots, index: int) -> None:
        self._slots, self._index, self._bounds = slots, index, metric.buckets
        self._sum = index + len(metric.buckets) + 1

    def observe(self, value: float) -> None:
        """Count one observation in the metric's unit."""
        if -1e300 < value < 1e300:
            slots = self._slots
            slots[self._index + bisect_left(self._bounds, value)] += 1.0
            slots[self._sum] += value


Handle = TypeVar("Handle", Counter, Gauge, Histogram)


def layout(metric: Metric) -> int:
    """A checksum of what a stored series means: files of a release with other labels or buckets are not misread."""
    return zlib.crc32(repr((metric.full_name, metric.kind, metric.labels, metric.buckets)).encode())


class SharedValues:
    """The writer's side: hands out series. `directory` is made if missing; raises ConfigError when that fails."""

    def __init__(self, directory: Path, role: str = "worker") -> None:
        self._series: dict[tuple[str, tuple[str, ...]], tuple[Slots, int, int]] = {}
        self._free: dict[int, list[int]] = {}            # width → first slots
        self._segments: list[Slots] = []
        self._used = SEGMENT_SLOTS                       # of the last segment
        self.unexported = 0
        name = f"{role}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = directory / (name + VALUES)
        starting = directory / (name + ".starting")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._log = os.open(directory / (name + SERIES), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.open(starting, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._grow()
            starting.rename(self.path)                   # seen by readers from here on: locked and complete
        except OSError as error:
            raise ConfigError(f"metrics cannot be kept in {directory}: {error.strerror}") from None

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """The counter of these label values, made at first use."""
        return self._handle(Counter, metric, labels)

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """The gauge of these label values, made at first use."""
        return self._handle(Gauge, metric, labels)

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The histogram of these label values, made at first use."""
        return self._handle(Histogram, metric, labels)

    def _handle(self, cls: type[Handle], metric: Metric, labels: tuple[str, ...]) -> Handle:
        if metric.kind != cls.__name__.lower() or len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} is a {metric.kind} with labels {metric.labels}, not {labels}")
        key = (metric.name, labels)
        slots, index, _ = self._series.get(key) or self._add(key, metric)
        return cls(metric, slots, index)

    def _add(self, key: tuple[str, tuple[str, ...]], metric: Metric) -> tuple[Slots, int, int]:
        """Values first, then the line that names them: a reader never sees a series without its slots."""
        try:
            slot = self._take(metric.width)
            try:
                self._append(["add", slot, time.time(), metric.width, layout(metric), metric.name, key[1]])
            except OSError:
                self._free.setdefault(metric.width, []).append(slot)
                raise
            segment, index = divmod(slot, SEGMENT_SLOTS)
            found = (self._segments[segment], index, slot)
        except OSError:
            self.unexported += 1
            found = (memoryview(bytearray(8 * metric.width)).cast("d"), 0, -1)
        self._series[key] = found
        return found

    def _take(self, width: int) -> int:
        """The first of `width` slots next to each other within one segment, all zero."""
        if free := self._free.get(width):
            return free.pop()
        if self._used + width > SEGMENT_SLOTS:
            self._grow()
        slot = (len(self._segments) - 1) * SEGMENT_SLOTS + self._used
        self._used += width
        return slot

    def _grow(self) -> None:
        """Reserve disk space before mapping it: a store into a page the disk has no room for would kill the process."""
        offset = len(self._segments) * SEGMENT_BYTES
        os.posix_fallocate(self._file, offset, SEGMENT_BYTES)
        self._segments.append(memoryview(mmap.mmap(self._file, SEGMENT_BYTES, offset=offset)).cast("d"))
        self._used = 0

    def _append(self, line: Sequence[object]) -> None:
        size = os.fstat(self._log).st_size
        text = orjson.dumps(line) + b"\n"
        try:
            written = os.write(self._log, text)
        except OSError:
            written = 0
        if written != len(text):
            os.ftruncate(self._log, size)
            raise OSError("no room for another series")

    def drop(self, label: str, value: str, metrics: Sequence[Metric]) -> None:
        """Forget the series of `metrics` whose `label` is `value`. Their handles must not be used again."""
        wanted = {metric.name: metric.labels.index(label) for metric in metrics if label in metric.labels}
        gone = [key for key in self._series if key[0] in wanted and key[1][wanted[key[0]]] == value]
        widths = {metric.name: metric.width for metric in metrics}
        for key in gone:
            slots, index, slot = self._series[key]
            if slot >= 0:
                try:
                    self._append(["drop", slot, time.time()])  # before the slots change: readers notice and read again
                except OSError:                          # no room: it stays
                    continue
                width = widths[key[0]]
                slots[index : index + width] = memoryview(bytes(8 * width)).cast("d")
                self._free.setdefault(width, []).append(slot)
            del self._series[key]

    def close(self) -> None:
        """Let readers fold these values into those of ended processes. Handles must not be used afterwards."""
        fcntl.flock(self._file, fcntl.LOCK_UN)           # closing is not enough: each mapping has a copy of the file
        os.close(self._log)
        os.close(self._file)
