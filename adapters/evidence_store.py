"""The evidence of a rollout, read from records of answers, feedback and scores; and its bad events, written down.

What a bad answer is stands here once, as SQL: `bad`. Records of PostgreSQL become visible out of the order of their
ids; who reads on from an id reads a little of what came before again (gateway.rollout.evidence).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, case, func, literal, or_, select

from adapters import tables
from adapters.database import Database, upsert
from adapters.types import Flag

MOST_ROWS = 5000               # per reading: what is left comes with the next
THUMBS_DOWN = 0.5              # a score below it is a bad word

_R = tables.responses.c


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One row of `assignments`: an arm of a rollout while it had this share of the units."""

    id: int
    rollout: int
    step: int
    arm: str
    version: str
    share: float


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A bad answer or word, before it is known to be its unit's first. `metric` as in a plan."""

    metric: str
    arm: str
    version: str
    step: int
    share: float                   # of the arm, in the snapshot that served the answer
    unit: bytes
    at: float
    response_id: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row of `bad_events`."""

    id: int
    metric: str
    candidate: int                 # 0: stable's, else Rollout.number_of its candidate
    share: float                   # of all candidates together


def bad(metric: str, objective: float = 0.0) -> ColumnElement[bool]:
    """The condition on `responses` under which an answer is a bad event. `objective` in seconds, for slow_*.

    What the engine's outage did, and a 503 (nobody could be asked), is not the version's fault.
    """
    there = _flag(Flag.ENGINE_DOWN, absent=True)
    conditions = {
        "error": lambda: and_(_R.status >= 500, _R.status != 503, there),
        "truncated": lambda: and_(_R.outcome == "truncated", there),
        "empty": lambda: and_(_R.status < 400, _flag(Flag.EMPTY)),
        "non_finite": lambda: _flag(Flag.NON_FINITE),
        "guard": lambda: _flag(Flag.GUARD),
        "unscreened": lambda: _flag(Flag.UNSCREENED),
        "slow_ttft": lambda: func.coalesce(_R.ttft, 0.0) > objective,
        "slow_duration": lambda: and_(_R.status < 400, _R.duration > objective),
    }
    return conditions[metric]()


class EvidenceStore:
    """Methods raise DatabaseError. Ids are of the rows that are read; `after` is left out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ends(self) -> tuple[int, int, int]:
        """The newest ids of responses, feedback and scores; 0 where there is none."""
        read = (tables.responses, tables.feedback, tables.scores)
        query = select(*(select(func.max(table.c.id)).scalar_subquery() for table in read))
        with self._database.read() as connection:
            row = connection.execute(query).one()
        return row[0] or 0, row[1] or 0, row[2] or 0

    def arms(self, rollout: int) -> dict[int, ArmRow]:
        """The rollout's assignments by id."""
        rows = tables.assignments.c
        query = select(rows.id, rows.rollout, rows.step, rows.arm, rows.version, rows.share)
        with self._database.read() as connection:
            return {row.id: ArmRow(*row) for row in connection.execute(query.where(rows.rollout == rollout))}

    def bad_answers(self, rollout: int, after: int, objectives: Mapping[str, float]) -> list[Occurrence]:
        """Bad answers of a rollout's arms, oldest first. `objectives`: metric → seconds (0 where none applies)."""
        flags = {name: bad(name, objective) for name, objective in objectives.items()}
        if not flags:
            return []
        columns = [case((condition, 1), else_=0) for condition in flags.values()]
        names = tuple(flags)
        return [
            Occurrence(name, *row[:7])
            for row in self._of(rollout, tables.responses, after, or_(*flags.values()), columns)
            for name, hit in zip(names, row[7:], strict=True)
            if hit
        ]

    def bad_words(self, rollout: int, after: int) -> list[Occurrence]:
        """Feedback below THUMBS_DOWN to answers of a rollout's arms, oldest first."""
        condition = tables.feedback.c.score < THUMBS_DOWN
        return [Occurrence("thumbs_down", *row) for row in self._of(rollout, tables.feedback, after, condition)]

    def _of(
        self, rollout: int, table: Table, after: int, condition: ColumnElement[bool], more: Sequence[Any] = ()
    ) -> list[Any]:
        """(arm, version, step, share, unit, at, response_id, *more) of rows whose assignment is the rollout's."""
        rows, arms = table.c, tables.assignments.c
        query = (
            select(arms.arm, arms.version, arms.step, arms.share, rows.unit, rows.at, rows.response_id, *more)
            .select_from(table.join(tables.assignments, arms.id == rows.assignment + 0))
            .where(rows.id > after, arms.rollout == rollout, condition)
            .order_by(rows.id)
            .limit(MOST_ROWS)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).all())

    def add_bad_events(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows of `bad_events`; those whose unit has one already for the metric are left out."""
        if not rows:
            return
        with self._database.begin() as connection:
            statement = upsert(connection, tables.bad_events).on_conflict_do_nothing()
            connection.execute(statement, [dict(row) for row in rows])

    def bad_events(self, rollout: int, after: int = 0) -> list[StoredEvent]:
        """Stored bad events in the order in which they were stored."""
        rows = tables.bad_events.c
        query = select(rows.id, rows.metric, rows.candidate, rows.share)
        query = query.where(rows.rollout == rollout, rows.id > after).order_by(rows.id)
        with self._database.read() as connection:
            found = connection.execute(query).all()
        return [StoredEvent(*row) for row in found]

    def first_ttft(self, rollout: int, version: str) -> float | None:
        """Seconds to the first token of a candidate's first streamed answer, which loads it into the GPU's memory."""
        arms = tables.assignments.c
        mine = select(arms.id).where(arms.rollout == rollout, arms.arm == "candidate", arms.version == version)
        query = select(_R.ttft).where(_R.assignment.in_(mine), _R.ttft.is_not(None)).order_by(_R.id).limit(1)
        with self._database.read() as connection:
            found: float | None = connection.execute(query).scalar()
            return found

    def samples(self, rollout: int, candidate: int = 1, limit: int = 10) -> list[dict[str, Any]]:
        """A candidate's newest bad events, by its number: dicts with metric, response_id, at. For incident reports."""
        rows = tables.bad_events.c
        query = select(rows.metric, rows.response_id, rows.at)
        query = query.where(rows.rollout == rollout, rows.candidate == candidate)
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query.order_by(rows.id.desc()).limit(limit)).mappings()]

    def newest(self, rollout: int, version: str, limit: int = 5) -> list[dict[str, Any]]:
        """A version's newest answers in a rollout, as `samples` gives bad ones: for reports where none was bad."""
        arms = tables.assignments.c
        mine = select(arms.id).where(arms.rollout == rollout, arms.version == version)
        query = select(literal("answer").label("metric"), _R.response_id, _R.at).where(_R.assignment.in_(mine))
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query.order_by(_R.at.desc()).limit(limit)).mappings()]

    def answers(
        self, assignments: Iterable[int], after: int, until: int, objectives: Mapping[str, float]
    ) -> list[tuple[Any, ...]]:
        """(id, at, unit, *bad as 0 or 1 per objective) of these arms' answers, oldest first; outages aside."""
        columns = [case((bad(name, objective), 1), else_=0) for name, objective in objectives.items()]
        query = select(_R.id, _R.at, _R.unit, *columns).where(_flag(Flag.ENGINE_DOWN, absent=True))
        return self._values(query, _R, assignments, (after, until))

    def counts(
        self, assignments: Iterable[int], since: float, objectives: Mapping[str, float]
    ) -> tuple[int, dict[str, int]]:
        """How many answers these arms gave since an instant, and how many were bad, by metric."""
        return self._counts(and_(_R.assignment.in_(list(assignments)), _R.at >= since), objectives)

    def window(
        self, route: str, version: str, since: float, until: float, objectives: Mapping[str, float]
    ) -> tuple[int, dict[str, int]]:
        """How many answers `version` gave on `route` outside any rollout, and how many were bad, by metric."""
        rows = tables.assignments.c
        mine = select(rows.id).where(
            rows.route == route, rows.version == version, rows.rollout == 0, rows.arm == "stable"
        )
        return self._counts(and_(_R.assignment.in_(mine), _R.at >= since, _R.at < until), objectives)

    def rated(self, route: str) -> bool:
        """True when anybody has ever rated an answer of this route."""
        mine = select(tables.assignments.c.id).where(tables.assignments.c.route == route)
        query = select(tables.feedback.c.id).where(tables.feedback.c.assignment.in_(mine)).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def served(self, route: str, version: str) -> list[int]:
        """The assignments of `version` as all that `route` serves, outside any rollout."""
        rows = tables.assignments.c
        query = select(rows.id).where(rows.route == route, rows.version == version, rows.rollout == 0)
        with self._database.read() as connection:
            return list(connection.execute(query.where(rows.arm == "stable")).scalars())

    def words(self, assignments: Iterable[int], after: int, until: int) -> list[tuple[int, float, bytes, float]]:
        """(id, at, unit, score) of the feedback to these arms' answers, oldest first."""
        rows = tables.feedback.c
        return self._values(select(rows.id, rows.at, rows.unit, rows.score), rows, assignments, (after, until))

    def scored(self, assignments: Iterable[int], after: int, until: int) -> list[tuple[int, str, float]]:
        """(id, metric, value) of the scores of these arms' answers, oldest first."""
        rows = tables.scores.c
        return self._values(select(rows.id, rows.metric, rows.value), rows, assignments, (after, until))

    def _values(self, query: Select[Any], rows: Any, assignments: Iterable[int], ids: tuple[int, int]) -> list[Any]:
        """Rows with ids above the first and up to the second."""
        # `+ 0`: read on along the primary key, instead of everything that these arms have ever answered.
        query = query.where(rows.id > ids[0], rows.id <= ids[1], (rows.assignment + 0).in_(list(assignments)))
        with self._database.read() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(rows.id).limit(MOST_ROWS))]

    def _counts(self, where: ColumnElement[bool], objectives: Mapping[str, float]) -> tuple[int, dict[str, int]]:
        columns = [func.sum(case((bad(name, objective), 1), else_=0)) for name, objective in objectives.items()]
        query = select(func.count(), *columns).select_from(tables.responses)
        with self._database.read() as connection:
            row = connection.execute(query.where(where, _flag(Flag.ENGINE_DOWN, absent=True))).one()
        return row[0], {name: int(count or 0) for name, count in zip(objectives, row[1:], strict=True)}


def _flag(flag: Flag, *, absent: bool = False) -> ColumnElement[bool]:
    masked = _R.flags.op("&")(literal(int(flag)))
    return masked == 0 if absent else masked != 0
