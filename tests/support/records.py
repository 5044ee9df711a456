"""Rows of a rollout's evidence, written directly: for tests of what reads them."""

from __future__ import annotations

import itertools
from typing import Any

from adapters import tables
from adapters.database import Database
from adapters.fleet_store import FleetStore
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Phase, Rollout
from gateway.rollout.arms import Course
from gateway.rollout.memory import Memory
from gateway.rollout.plan import Plan, to_json
from tests.support.traffic import quick_plan, unit_of

CANDIDATE, STABLE = "r@222222222222", "r@111111111111"


class Records:
    """One rollout on route `r`, in the ramp at `weight`, with its two arms."""

    def __init__(self, database: Database, plan: Plan | None = None, weight: float = 0.2, **row: Any) -> None:
        self.database = database
        self.plan = plan or quick_plan()
        self._fleet = FleetStore(database)
        self._numbers = itertools.count(1)
        values = {
            "route": "r", "candidate": CANDIDATE, "stable": STABLE, "plan": to_json(self.plan),
            "phase": Phase.RAMP.value, "step": 1, "weight": weight, "generation": 0, "started_at": 1000.0,
            "phase_since": 1000.0, "state": {}, "reason": "", **row,
        }  # fmt: skip
        with database.begin() as connection:
            query = tables.rollouts.insert().values(values).returning(tables.rollouts.c.id)
            number = connection.execute(query).scalar_one()
        self.rollout: Rollout = RolloutStore(database).get(number)
        top = 1.0 - self.plan.holdout_share
        self.candidate = self.assignment("candidate", weight)
        self.stable = self.assignment("stable", top - weight, version=STABLE)

    def course(self, **memory: Any) -> Course:
        """As a controller knows it."""
        return Course(self.rollout, self.plan, Memory(**memory))

    def assignment(
        self, arm: str, share: float, *, step: int = 1, version: str = CANDIDATE, rollout: int | None = None
    ) -> int:
        """An arm of this rollout (0: of none)."""
        number = self.rollout.id if rollout is None else rollout
        return self._fleet.assignment("r", version, arm, share, rollout=number, step=step)

    def answer(self, assignment: int, unit: int, **more: Any) -> str:
        """One answer; its response id."""
        response = f"{next(self._numbers):048d}"
        row = {
            "response_id": response, "at": 2000.0, "assignment": assignment, "unit": unit_of(unit), "endpoint": "chat",
            "status": 200, "outcome": "ok", "ttft": 0.1, "duration": 0.3, "input_tokens": 10, "output_tokens": 10,
            "flags": 0, **more,
        }  # fmt: skip
        self._insert(tables.responses, row)
        return response

    def error(self, assignment: int, unit: int, **more: Any) -> str:
        """A 500."""
        return self.answer(assignment, unit, **{"status": 500, "outcome": "error", **more})

    def say(self, assignment: int, unit: int, score: float, *, response: str = "", kind: str = "thumb", at: float = 2000.0) -> None:
        """Feedback."""
        row = {"response_id": response or f"{next(self._numbers):048d}", "at": at, "assignment": assignment}
        self._insert(tables.feedback, {**row, "unit": unit_of(unit), "score": score, "kind": kind})

    def grade(
        self, assignment: int, unit: int, metric: str, value: float, *, response: str = "", at: float = 2000.0
    ) -> None:
        """A score."""
        row = {"response_id": response or f"{next(self._numbers):048d}", "at": at, "assignment": assignment}
        self._insert(tables.scores, {**row, "unit": unit_of(unit), "metric": metric, "value": value})

    def pair(self, unit: int, metric: str, stable: float, candidate: float) -> None:
        """Two answers to one prompt."""
        row = {"rollout": self.rollout.id, "response_id": f"{next(self._numbers):048d}", "at": 2000.0}
        pair = {"unit": unit_of(unit), "metric": metric, "stable": stable, "candidate": candidate}
        self._insert(tables.shadow_pairs, {**row, **pair})

    def _insert(self, table: Any, row: dict[str, Any]) -> None:
        with self.database.begin() as connection:
            connection.execute(table.insert().values(row))
