"""Small suites with answers written by a test: what evaluations and gates are tried on where no model is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.evaluate import Evaluated, evaluate
from trainer.evaluation.answers import Answer, Ask
from trainer.evaluation.grading import Grading
from trainer.suite import Suite, load_suite

V, W = "support@0123456789ab", "support@ffffffffffff"
Reply = Callable[[Ask], Answer | str]


class Scripted:
    """Answers as a test says."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[str] = []

    def run(self, asks: Any, answered: Any) -> None:
        for ask in asks:
            self.asked.append(ask.key)
            said = self.reply(ask)
            if isinstance(said, str):
                said = Answer(said, "stop", 5, max(1, len(said.split())), 0.1, math.log(0.8), 1)
            answered(ask, said)


def write_slice(folder: Path, name: str, n: int, **columns: Any) -> None:
    """`n` rows "<name> <i>" with answer "<i>"."""
    rows = [{"prompt": f"{name} {i}", "answer": str(i), **columns} for i in range(n)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_suite(folder: Path, text: str = "", head: str = "", n: int = 40) -> Suite:
    """A suite of the slice "sums" (`n` rows), or of whatever `text` has."""
    if not text:
        write_slice(folder, "sums", n)
        text = '[[slice]]\nname = "sums"\nfile = "sums.jsonl"\ngraders = ["exact"]\n'
    path = folder / "suite.toml"
    path.write_text(f'[suite]\nname = "s"\n{head}\n{text}')
    return load_suite(path)


def run(folder: Path, suite: Suite, reply: Reply, version: str = V, source: str = "gateway") -> Evaluated:
    """One evaluation with scripted answers."""
    answering = Scripted(reply)
    return evaluate(suite, Grading(suite), answering, version=version, source=source, kept=folder / "kept")


def right(share: float, every: int = 0) -> Reply:
    """Right answers to the first `share` of each slice's rows; `every`: shifts which ones."""

    def reply(ask: Ask) -> str:
        count = len(ask.part.rows)
        place = (ask.row_index + every) % count
        return str(ask.row.columns["answer"]) if place < round(share * count) else "wrong"

    return reply
