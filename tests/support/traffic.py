"""Users of a World: requests are routed by the published snapshot as a worker would, and recorded as it would."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters import tables
from adapters.gates import GateVerdict, record_gate
from adapters.rollouts import Rollout
from adapters.snapshot import Arm, RouteState
from adapters.types import Flag
from gateway.data_plane.routing import bucket
from gateway.rollout.plan import Plan, from_json, to_json
from tests.support.world import World

Row = dict[str, Any]


def unit_of(number: int) -> bytes:
    """The hash of user `number`, as in response ids."""
    return number.to_bytes(8, "big")


def quick_plan(**changes: Any) -> Plan:
    """Two steps of a few seconds, and bad events that need no feedback; no shadow."""
    body: dict[str, Any] = {
        "name": "quick",
        "step": [
            {"weight": "20%", "min_units": 20, "min_duration": "1s", "max_duration": "10m"},
            {"weight": "50%", "min_units": 100, "min_duration": "1s", "max_duration": "10m", "advance": "evidence"},
        ],
        "metric": [
            {"name": "error", "role": "primary", "margin": 0.2},
            {"name": "empty", "margin": 0.2},
            {"name": "non_finite", "margin": 0.2},
            {"name": "slow_ttft", "objective": 1.0, "role": "exploratory"},
        ],
    }
    return from_json({**body, **changes})


def clear(world: World, version: str) -> None:
    """Let the version pass its gate."""
    with world.database.begin() as connection:
        record_gate(connection, version, GateVerdict.PASSED, actor="test")


def begin(
    world: World, version: str, plan: Plan | None = None, route: str = "r", *, actor: str = "test",
    rivals: Sequence[str] = (),
) -> Rollout:
    """A rollout of versions that have passed their gates."""
    for name in (version, *rivals):
        clear(world, name)
    body, base, now = to_json(plan or quick_plan()), world.base.version, world.clock.now
    return world.rollouts.start(route, version, base, body, actor=actor, now=now, rivals=rivals)


@dataclass
class Traffic:
    """Writes records of `route`. Ids count up; the clock is the world's."""

    world: World
    route: str = "r"
    numbers: Any = field(default_factory=itertools.count)

    def ask(self, users: Iterable[int], answer: Callable[[Arm, int], Row] = lambda arm, user: {}) -> list[Row]:
        """One request of each user; `answer` says what is unusual about the record. The rows as stored."""
        rows, state = [], self.world.published(self.route)
        for user in users:
            unit = unit_of(user)
            arm = _arm(state, unit)
            rows.append({
                "response_id": self._id(), "at": self.world.clock.now, "assignment": arm.assignment,
                "unit": unit, "endpoint": "chat", "status": 200, "outcome": "ok", "ttft": 0.1, "duration": 0.3,
                "input_tokens": 10, "output_tokens": 10, "flags": 0, **answer(arm, user),
            })  # fmt: skip
        self._insert(tables.responses, rows)
        return rows

    def rate(self, rows: Iterable[Row], score: Callable[[Row], float | None], kind: str = "thumb") -> None:
        """Feedback to answers; None: this user says nothing."""
        said = [(row, value) for row in rows if (value := score(row)) is not None]
        columns = ("response_id", "assignment", "unit")
        self._insert(tables.feedback, [
            {**{name: row[name] for name in columns}, "at": self.world.clock.now, "score": value, "kind": kind}
            for row, value in said
        ])  # fmt: skip

    def grade(self, rows: Iterable[Row], value: Callable[[Row], float], metric: str = "exact") -> None:
        """Scores of answers."""
        columns = ("response_id", "assignment", "unit")
        self._insert(tables.scores, [
            {**{name: row[name] for name in columns}, "at": self.world.clock.now, "value": value(row), "metric": metric}
            for row in rows
        ])  # fmt: skip

    def mirror(
        self, rollout: int, users: Iterable[int], pair: Callable[[int], tuple[float, float]], assignment: int = 0
    ) -> None:
        """Pairs of the shadow phase: (stable, candidate) of each user; `assignment`: whose, of several candidates."""
        rows = []
        for user in users:
            stable, candidate = pair(user)
            rows.append({
                "rollout": rollout, "response_id": self._id(), "at": self.world.clock.now,
                "unit": unit_of(user), "metric": "exact", "stable": stable, "candidate": candidate,
                "assignment": assignment,
            })  # fmt: skip
        self._insert(tables.shadow_pairs, rows)

    def _id(self) -> str:
        """A new response id; the users of another route have others."""
        return f"{self.route}-{next(self.numbers)}".rjust(48, "0")

    def _insert(self, table: Any, rows: list[Row]) -> None:
        if rows:
            with self.world.database.begin() as connection:
                connection.execute(table.insert(), rows)


def failing(*arms: str) -> Callable[[Arm, int], Row]:
    """Answers of these arms are errors."""
    return lambda arm, user: {"status": 500, "outcome": "error"} if arm.arm in arms else {}


def empty(*arms: str) -> Callable[[Arm, int], Row]:
    """Answers of these arms have no text."""
    return lambda arm, user: {"flags": int(Flag.EMPTY)} if arm.arm in arms else {}


def _arm(state: RouteState, unit: bytes) -> Arm:
    """Who serves this unit."""
    point = bucket(state.salt.encode(), unit)
    return next(arm for arm in state.arms if point < arm.high)
