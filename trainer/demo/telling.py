"""What every chapter of the demo needs: the stack, the report, claims with their verdicts, and measuring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.demo.runs import write_run
from trainer.demo.stack import ROOT, Stack
from trainer.demo.tally import Tally

Say = Callable[[str], None]


@dataclass
class Story:
    """One telling: the stack, what was measured, and the claims that failed."""

    stack: Stack
    seed: int
    say: Say
    tally: Tally
    report: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the story keeps its files."""
        return self.stack.directory

    def claim(self, holds: bool, text: str) -> None:
        """Print a claim with its verdict; remember a broken one."""
        self.say(f"  {'✓' if holds else '✗'} {text}")
        if not holds:
            self.broken.append(text)

    def tell(self, text: str) -> None:
        """Print something of a chapter, indented."""
        self.say("\n".join(f"     {line}" for line in text.splitlines()))


def train(story: Story, algorithm: str, kind: str, init_from: str = "") -> tuple[str, float]:
    """`understudy train`, with its progress; the version, and the seconds it took. Raises TrainingError."""
    began = time.monotonic()
    run = write_run(story.folder / kind, kind, story.seed, init_from)
    command = [sys.executable, "-m", "gateway.cli", "train", algorithm, "-c", str(run)]
    command += ["--registry", str(story.stack.config)]
    log = story.folder / f"{kind}.log"
    with log.open("w") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True, env=os.environ, check=False
        )
    lines = log.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("health:"):
            story.tell(line)
    if done.returncode:
        raise TrainingError(f"understudy train {algorithm}: {lines[-1] if lines else 'no reason given'}")
    version = done.stdout.strip().splitlines()[-1]
    seconds = time.monotonic() - began
    story.stack.versions[kind] = version
    story.tell(f"{version}, trained in {seconds:.0f} s")
    return version, round(seconds, 1)


def last_metric(story: Story, kind: str, name: str) -> float:
    """The last value of a metric in a run's metrics.jsonl; NaN when it was never measured."""
    found = float("nan")
    for line in (story.folder / kind / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = float(row.get(name, found))
    return found


class InBackground:
    """A call in a thread of its own; `wait` shows that it is still going and raises what it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error

    def wait(self, say: Say) -> None:
        """Until it has ended."""
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(10.0)
            if self._thread.is_alive():
                say(f"     vLLM is loading ({time.monotonic() - began:.0f} s) …")
        if self._error is not None:
            raise self._error
