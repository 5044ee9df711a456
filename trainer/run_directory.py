"""One run's folder: what was asked, what was measured, and where to go on after a crash.

    run.json            frozen: algorithm, config, digests of code, data and base, seeds, package versions
    data_report.json    what the checks of the data found
    metrics.jsonl       one row per log: {"step", "time", "split": "train" | "health", "<name>": float, …}
    samples.jsonl       sample completions (RL)
    checkpoints/        checkpoint-N, each with complete.json once all of it is on the disk
    adapter/            what is published
    result.json         the version, marks and facts, once the run has ended
    report.html         for people
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.errors import Conflict, TrainingError

MARKER = "complete.json"
"""Written into a checkpoint last: sizes of all its files. A checkpoint without it, or of other sizes, is torn."""


class RunDirectory:
    """Paths and files of one run. Methods raise TrainingError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frozen = path / "run.json"
        self.data_report = path / "data_report.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.result = path / "result.json"
        self.report = path / "report.html"

    @property
    def name(self) -> str:
        """How metrics and lineage call the run."""
        return self.path.name

    def start(self, frozen: Mapping[str, Any], environment: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or with `resume` find the same run in it. Raises Conflict when it is another run's.

        `frozen` must not change when a run is resumed; `environment` (code, packages) may, and is recorded.
        """
        if not self.frozen.exists():
            ours = ("lock", self.checkpoints.name)  # and unfinished files: what a run leaves that was killed right here
            if any(path.name not in ours and not path.name.startswith(".") for path in self.path.glob("*")):
                raise Conflict(f"output_dir {self.path} is not empty and holds no run: choose another one")
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.write_json(self.frozen, {**frozen, "environment": environment, "started_at": time.time()})
            return
        if not resume:
            raise Conflict(f"output_dir {self.path} holds a run: --resume goes on with it, or choose another one")
        before = self.read_json(self.frozen)
        for key, value in _leaves(frozen):
            if (had := _at(before, key)) != value:
                raise Conflict(
                    f"{self.path} cannot be resumed: {'.'.join(key)} was {_short(had)} and is now {_short(value)}"
                )
        again = [*before.get("resumed", []), {"at": time.time(), "environment": environment}]
        self.write_json(self.frozen, {**before, "resumed": again})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process. Raises Conflict when another process trains in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"another process is training in {self.path}") from None
            yield

    def log(self, step: int, split: str, values: Mapping[str, float], now: float | None = None) -> None:
        """Append one row to metrics.jsonl; NaN and infinities become null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.append(self.metrics, {"step": step, "time": now or time.time(), "split": split, **numbers})

    def append(self, path: Path, row: Mapping[str, Any]) -> None:
        """Append one row to a JSONL file of the run (`metrics`, `samples`)."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self, path: Path | None = None) -> list[dict[str, Any]]:
        """The whole rows of a JSONL file (default: `metrics`); a torn last line is left out."""
        path = path or self.metrics
        if not path.exists():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def trim(self, step: int) -> None:
        """Forget rows after `step`: they are measured again."""
        for path in (self.metrics, self.samples):
            kept = [row for row in self.rows(path) if row.get("step", 0) <= step]
            if path.exists():
                _replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))

    def mark_complete(self, checkpoint: Path) -> None:
        """Make a checkpoint count: all its bytes reach the disk, then the marker."""
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        for path in files:
            _sync(path)
        sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
        self.write_json(checkpoint / MARKER, {"step": _step(checkpoint), "files": sizes})
        _sync(checkpoint)

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; torn ones are deleted. None when there is none."""
        whole = None
        for checkpoint in sorted(self.checkpoints.glob("checkpoint-*"), key=_step):
            if _is_whole(checkpoint):
                whole = checkpoint
            else:
                shutil.rmtree(checkpoint, ignore_errors=True)
        return whole

    def write_json(self, path: Path, value: Any) -> None:
        """Write a file of the run whole or not at all."""
        _replace(path, json.dumps(value, indent=2, sort_keys=True, default=str, ensure_ascii=False) + "\n")

    def read_json(self, path: Path) -> Any:
        """Read a file of the run. Raises TrainingError when it is not readable JSON."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read: {error}") from None


def _step(checkpoint: Path) -> int:
    digits = checkpoint.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["files"]
        return bool(sizes) and all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        new.write_text(text, encoding="utf-8")
        _sync(new)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise TrainingError(f"{path} cannot be written: {error.strerror}: free space, then --resume") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leaves(value: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, (*above, key))
        else:
            yield (*above, key), json.loads(json.dumps(inner, default=str))


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
