"""Answers with a reward and a user's word, written as a gateway would: for tests of the collapse detector."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from adapters import tables
from adapters.database import Database
from tests.support.traffic import unit_of

NOON = 20_000 * 86400.0 + 43200.0
Rows = Iterable[tuple[float, float]]


def opinions(seed: int, count: int, drop: float = 0.0, h: float = 0.0) -> list[tuple[float, float]]:
    """(reward, satisfaction): usefulness `drop` lower, and `h` that the reward does not notice of it."""
    rng, rows = random.Random(f"opinions/{seed}"), []
    for _ in range(count):
        u = rng.gauss(-drop, 1)
        rows.append((0.7 * u + 0.714 * rng.gauss(0, 1) + h, float(rng.random() < 1 / (1 + math.exp(-1.6 - 0.9 * u)))))
    return rows


def collapsed(seed: int, count: int) -> list[tuple[float, float]]:
    """The reward goes up while a third of the users leave."""
    return opinions(seed, count, 1.5, 1.3)


def regressed(seed: int, count: int) -> list[tuple[float, float]]:
    """Worse, and the reward says so."""
    return opinions(seed, count, 1.5, 0.0)


@dataclass
class Feed:
    """Every row is another user's, unless `units` says otherwise."""

    database: Database
    at: float = NOON
    metric: str = "reward.exact"     # as the data plane writes it
    repetition: float = 0.1
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    users: Any = field(default_factory=lambda: itertools.count(10**6))

    def alternate(self, **arms: Rows) -> None:
        """By turns, one answer of each arm; names are `a<assignment>`."""
        names = itertools.cycle([int(name.removeprefix("a")) for name in arms])
        rows = [row for turn in zip(*arms.values(), strict=True) for row in turn]
        self.give(0, rows, assignments=names)

    def give(
        self, assignment: int, rows: Rows, *, units: Iterable[int] | None = None, graded: bool = True,
        assignments: Iterable[int] | None = None,
    ) -> list[str]:  # fmt: skip
        """Answers, their scores and feedback; the response ids. `graded`: False: the scores come later (`grade`)."""
        units = iter(units) if units is not None else self.users
        arms = iter(assignments) if assignments is not None else itertools.repeat(assignment)
        shared = [(f"{next(self.numbers):048d}", unit_of(next(units)), *row) for row in rows]
        common = [{"response_id": name, "at": self.at, "assignment": next(arms), "unit": unit} for name, unit, *_ in shared]
        rest = {
            "endpoint": "chat", "status": 200, "outcome": "ok", "ttft": 0.1, "duration": 0.3, "input_tokens": 9,
            "output_tokens": 9, "flags": 0,
        }  # fmt: skip
        said = [{**row, "score": s, "kind": "thumb"} for row, (*_, s) in zip(common, shared, strict=True)]
        self._insert(tables.responses, [row | rest for row in common])
        if graded:
            self.grade(common, [r for *_, r, _ in shared])
        self._insert(tables.feedback, said)
        return [name for name, *_ in shared]

    def grade(self, common: list[dict[str, Any]], rewards: list[float]) -> None:
        """Scores of answers, and two statistics of their texts."""
        metrics = {self.metric: rewards, "text.tokens": [9.0] * len(rewards), "text.repetition": [self.repetition] * len(rewards)}
        self._insert(tables.scores, [
            {**row, "metric": name, "value": value}
            for place, row in enumerate(common) for name, value in ((n, v[place]) for n, v in metrics.items())
        ])  # fmt: skip

    def _insert(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            with self.database.begin() as connection:
                connection.execute(table.insert(), rows)
