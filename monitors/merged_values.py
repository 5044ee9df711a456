"""Reads the values files of all processes of one host and merges them, without touching the processes.

What ended processes counted stays counted: their counters and histograms are added to `accumulated.json` and their
files removed; their gauges go with them. The file names what it contains, so a kill between the two steps counts
nothing twice. Several readers may do this at once: they take turns by a lock that writers never see.

A series is forgotten when a process that lives has dropped it (its version left the routes some hours ago): what the
others counted before that moment is no longer shown, or Prometheus would take the smaller sum for a restart and count
all of it again. And it is forgotten when only ended processes had it and its version is in no living process for
RETIRE_AFTER.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from adapters.errors import UnderstudyError
from monitors.conventions import RETIRE_AFTER, Metric
from monitors.shared_values import SERIES, VALUES, layout
from monitors.values_reader import KNOWN, Key, Snapshot, Times, Values, is_held, read

logger = logging.getLogger(__name__)

Series = tuple[tuple[str, ...], list[float]]

_ACCUMULATED = "accumulated.json"
_TURNS = 250                             # of 20 ms each
_ORPHAN_AFTER = 3600.0                   # seconds: half-made files of a process killed at its start


def merge(directory: Path, now: float | None = None) -> list[tuple[Metric, list[Series]]]:
    """Every series of the host by metric, after folding in what has ended. Raises UnderstudyError.

    `now`: seconds since the epoch. Values: one number, or a histogram's counts per bucket, over the last bucket, sum.
    """
    now = time.time() if now is None else now
    with _turn(directory):
        living, dead = _read_all(directory)
        drops: Times = {}
        for process in living:
            for key, at in process.dropped.items():
                drops[key] = max(at, drops.get(key, 0.0))
        ended = _Ended(directory)
        for path, process in dead:
            ended.fold(path, process, drops, now)
        ended.forget(living, drops, now)
        ended.save()
        _remove_orphans(directory, now)
    merged = {key: list(values) for key, (values, _) in ended.series.items()}
    clock = time.monotonic()
    for process in living:
        for key, values in process.values.items():
            if process.added[key] >= drops.get(key, 0.0):
                _add(KNOWN[key[0]], merged, key, values, clock)
    by_name: dict[str, list[Series]] = {name: [] for name in KNOWN}  # in the order of the conventions
    for (name, labels), values in sorted(merged.items()):
        by_name[name].append((labels, values))
    return [(KNOWN[name], series) for name, series in by_name.items() if series]


def _read_all(directory: Path) -> tuple[list[Snapshot], list[tuple[Path, Snapshot]]]:
    """(of living processes, of ended ones)."""
    living: list[Snapshot] = []
    dead: list[tuple[Path, Snapshot]] = []
    for path in sorted(directory.glob("*" + VALUES)):
        try:
            if is_held(path):
                living.append(read(path))
            else:
                dead.append((path, read(path)))
        except (OSError, ValueError, TypeError, LookupError) as error:  # a damaged file must not hide the others
            logger.error("%s is skipped: %s", path, error)
    return living, dead


def _add(metric: Metric, merged: Values, key: Key, values: list[float], clock: float) -> None:
    if metric.merge == "age":
        values = [max(0.0, clock - values[0])]
    before = merged.get(key)
    if before is None:
        merged[key] = list(values)
    elif metric.kind == "gauge" and metric.merge != "sum":
        before[0] = max(before[0], values[0])
    else:
        before[:] = [a + b for a, b in zip(before, values, strict=True)]


class _Ended:
    """accumulated.json: the counts of processes that have ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / _ACCUMULATED
        self.series: dict[Key, tuple[list[float], float]] = {}   # values, when last added to
        self._folded: list[str] = []                             # files whose counts are in `series`
        self._changed = False
        self._load()

    def _load(self) -> None:
        try:
            stored = orjson.loads(self._path.read_bytes())
            for checksum, name, labels, values, at in stored["series"]:
                metric = KNOWN.get(name)
                if metric is not None and layout(metric) == checksum and len(values) == metric.width:
                    self.series[name, tuple(labels)] = (values, at)
            self._folded = [name for name in stored["folded"] if (self._directory / name).exists()]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            logger.error("%s is damaged and set aside; counters start again: %s", self._path, error)
            self._path.replace(self._path.with_suffix(".damaged"))
            self.series, self._folded = {}, []

    def fold(self, path: Path, process: Snapshot, drops: Times, now: float) -> None:
        """Add an ended process's counts, unless they are in already."""
        if path.name in self._folded:
            return
        for key, values in process.values.items():
            if KNOWN[key[0]].kind != "gauge" and process.added[key] >= drops.get(key, 0.0):
                before = self.series.get(key, ([0.0] * len(values), now))[0]
                self.series[key] = ([a + b for a, b in zip(before, values, strict=True)], now)
        self._folded.append(path.name)
        self._changed = True

    def forget(self, living: list[Snapshot], drops: Times, now: float) -> None:
        """Drop series of versions that nobody serves any more."""
        if not living:
            return
        versions = {_version(key) for process in living for key in process.values}
        for key, (_, at) in list(self.series.items()):
            version = _version(key)
            if at < drops.get(key, 0.0) or (version and version not in versions and now - at > RETIRE_AFTER):
                del self.series[key]
                self._changed = True

    def save(self) -> None:
        """Write what changed, then remove the files it contains. A full disk costs nothing: they stay until later."""
        if self._changed:
            series = [[layout(KNOWN[k[0]]), k[0], k[1], values, at] for k, (values, at) in self.series.items()]
            try:
                _write(self._path, orjson.dumps({"format": 1, "folded": self._folded, "series": series}))
            except OSError as error:
                logger.warning("%s cannot be written, ended processes stay in their own files: %s", self._path, error)
                return
        for name in self._folded:
            path = self._directory / name
            path.unlink(missing_ok=True)
            path.with_suffix(SERIES).unlink(missing_ok=True)


def _version(key: Key) -> str:
    labels = KNOWN[key[0]].labels
    return key[1][labels.index("version")] if "version" in labels else ""


def _write(path: Path, data: bytes) -> None:
    """All or nothing, also when the power fails."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _remove_orphans(directory: Path, now: float) -> None:
    """What a process left that was killed before its values file had its name."""
    for path in (*directory.glob("*.starting"), *directory.glob("*" + SERIES)):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > _ORPHAN_AFTER and not path.with_suffix(VALUES).exists():
                path.unlink()


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """One reader at a time."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (directory / "readers.lock").open("a")
    except OSError as error:
        raise UnderstudyError(f"metrics cannot be read from {directory}: {error.strerror}") from None
    with file:
        for _ in range(_TURNS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                yield
                return
        raise UnderstudyError(f"metrics in {directory} are being read by a process that does not finish: end it")
