"""Rewards and satisfaction of the same answers, read by cursor; and the detectors of reward collapse, written down.

A detector's state and what it has read are one row, changed by compare-and-swap: whatever happens between reading and
writing, each feedback counts exactly once. A user counts once a day (UTC): with the day's first feedback, of the arms
that are read, whose answer has a reward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, not_, select, update

from adapters import tables
from adapters.database import Database, insert_new
from adapters.errors import Conflict

MOST_PAIRS = 1000              # feedbacks looked at per reading: what is left comes with the next
DAY = 86400.0                  # seconds
OVERLAP = 1000                 # ids: records come in nearly, not exactly, the order of their times
DEPARTURES = ("regenerate", "edit", "abandon")  # kinds of feedback that nobody says: people do so
_TEXT = "text."                # what scores that are no grader's begin with

_F, _S, _R, _A, _C = (
    table.c for table in (tables.feedback, tables.scores, tables.responses, tables.assignments, tables.collapse_states)
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One feedback to an answer that was scored. `scores`: metric → value, graders and text.*."""

    id: int                        # of the feedback
    at: float                      # seconds since the epoch
    unit: bytes
    assignment: int
    response_id: str
    satisfaction: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which feedback counts: kinds of feedback, and the grader that is the reward (empty: the mean of all)."""

    kinds: tuple[str, ...]
    grader: str = ""

    def reward(self, scores: Mapping[str, float]) -> float | None:
        """The reward among an answer's scores; None where it has none."""
        if self.grader:
            return scores.get(self._names[0], scores.get(self._names[1]))
        graded = [value for metric, value in scores.items() if not metric.startswith(_TEXT)]
        return sum(graded) / len(graded) if graded else None

    @property
    def scored(self) -> ColumnElement[bool]:
        """The rows of `scores` that are, or are part of, the reward."""
        return _S.metric.in_(self._names) if self.grader else not_(_S.metric.like(f"{_TEXT}%"))

    @property
    def _names(self) -> tuple[str, str]:
        """What `scores` calls it: with the prefix of rewards, or without."""
        return f"reward.{self.grader}", self.grader


@dataclass(frozen=True, slots=True)
class StoredDetector:
    """One row of `collapse_states`. Empty mappings: there is none yet. Revision 0: not stored yet."""

    route: str
    version: str
    scope: str
    revision: int = 0
    answers: int = 0
    words: int = 0
    calibration: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    updated_at: float = 0.0


class Counts(NamedTuple):
    """How many answers were given, how many feedbacks to them, and how many of those are departures."""

    answers: int = 0
    feedbacks: int = 0
    departures: int = 0


class CollapseStore:
    """Methods raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, route: str, version: str, scope: str) -> StoredDetector:
        """The row, or one of revision 0."""
        query = select(tables.collapse_states).where(_C.route == route, _C.version == version, _C.scope == scope)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        return StoredDetector(**row) if row else StoredDetector(route, version, scope)

    def save(self, stored: StoredDetector, *, calibrated: bool = False) -> StoredDetector:
        """Write the row as the successor of the revision it has. `calibrated`: the calibration is new, write it too.

        Raises Conflict when another controller was faster: load it again.
        """
        following = replace(stored, revision=stored.revision + 1)
        columns = ("revision", "answers", "words", "state", "verdict", "updated_at")
        values = {name: getattr(following, name) for name in columns}
        key = {"route": stored.route, "version": stored.version, "scope": stored.scope}
        with self._database.begin() as connection:
            if stored.revision == 0:
                row = {**key, **values, "calibration": dict(stored.calibration)}
                written = insert_new(connection, tables.collapse_states, **row)
            else:
                if calibrated:
                    values["calibration"] = dict(stored.calibration)
                same = (*(_C[name] == value for name, value in key.items()), _C.revision == stored.revision)
                done = connection.execute(update(tables.collapse_states).where(*same).values(values))
                written = done.rowcount == 1
        if written:
            return following
        raise Conflict(f"the collapse detector of {stored.version} ({stored.scope}) was written by somebody else")

    def forget(self, before: float) -> int:
        """Delete detectors not written since `before` (seconds since the epoch); how many."""
        with self._database.begin() as connection:
            return connection.execute(tables.collapse_states.delete().where(_C.updated_at < before)).rowcount

    def ends(self) -> tuple[int, int]:
        """The newest ids of responses and feedback; 0 where there is none."""
        newest = (select(func.max(column)).scalar_subquery() for column in (_R.id, _F.id))
        with self._database.read() as connection:
            answers, words = connection.execute(select(*newest)).one()
        return answers or 0, words or 0

    def arms(self, route: str, version: str, rollout: int | None = None, arm: str | None = None) -> list[int]:
        """Assignments of `version` on `route` that users saw; of one rollout's ramp, or in one arm, where given."""
        query = select(_A.id).where(_A.route == route, _A.version == version, _A.arm.in_(("stable", "candidate")))
        if rollout is not None:
            query = query.where(_A.rollout == rollout, _A.step > 0)
        if arm is not None:
            query = query.where(_A.arm == arm)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def before_first(self, arms: Collection[int]) -> tuple[int, int]:
        """Ids of responses and feedback a little before the first of these arms; 0 where there is none."""
        found = []
        with self._database.read() as connection:
            for rows in (_R, _F):
                query = select(rows.id).where(rows.assignment.in_(list(arms))).order_by(rows.at).limit(1)
                found.append(max(0, (connection.execute(query).scalar() or 0) - OVERLAP))
        return found[0], found[1]

    def pairs(self, arms: Collection[int], after: int, until: int, wanted: Wanted) -> tuple[list[Pair], int]:
        """(pairs that count, feedback id read up to): feedback above `after` and up to `until`, oldest first."""
        mine = and_((_F.assignment + 0).in_(list(arms)), _F.kind.in_(wanted.kinds))
        query = select(_F.id, _F.at, _F.unit, _F.assignment, _F.score, _F.response_id)
        query = query.where(_F.id > after, _F.id <= until, mine).order_by(_F.id).limit(MOST_PAIRS)
        with self._database.read() as connection:
            rows = list(connection.execute(query).all())
        found = [pair for pair in self._scored(rows) if wanted.reward(pair.scores) is not None]
        counted = self._counted(found, mine, wanted)
        read = rows[-1].id if len(rows) >= MOST_PAIRS else until
        return _once_a_day(found, counted), read

    def newest(self, arms: Collection[int], until: int, count: int, wanted: Wanted) -> list[Pair]:
        """The newest `count` pairs up to a feedback id, oldest first, a user once a day: what to calibrate on."""
        mine = (_F.assignment.in_(list(arms)), _F.kind.in_(wanted.kinds), _F.id <= until)
        scored = exists(select(_S.id).where(_S.response_id == _F.response_id, wanted.scored))
        query = select(_F.id, _F.at, _F.unit, _F.assignment, _F.score, _F.response_id).where(*mine, scored)
        with self._database.read() as connection:
            rows = list(connection.execute(query.order_by(_F.id.desc()).limit(3 * count)).all())
        found = [pair for pair in self._scored(rows[::-1]) if wanted.reward(pair.scores) is not None]
        return _once_a_day(found, set())[-count:]

    def counts(self, arms: Collection[int], answers: tuple[int, int], words: tuple[int, int]) -> Counts:
        """Of these arms with ids above the first and up to the second."""
        mine = list(arms)
        return self._counts(
            and_(_R.id > answers[0], _R.id <= answers[1], (_R.assignment + 0).in_(mine)),
            and_(_F.id > words[0], _F.id <= words[1], (_F.assignment + 0).in_(mine)),
        )

    def counts_between(self, arms: Collection[int], since: float, until: float) -> Counts:
        """Of these arms in a time, seconds since the epoch."""
        mine = list(arms)
        return self._counts(
            and_(_R.assignment.in_(mine), _R.at >= since, _R.at <= until),
            and_(_F.assignment.in_(mine), _F.at >= since, _F.at <= until),
        )

    def _counts(self, answers: ColumnElement[bool], words: ColumnElement[bool]) -> Counts:
        given = select(func.count()).where(answers, _R.status < 400)
        left = func.sum(case((_F.kind.in_(DEPARTURES), 1), else_=0))
        with self._database.read() as connection:
            said, gone = connection.execute(select(func.count(), left).where(words)).one()
            return Counts(connection.execute(given).scalar_one(), said, int(gone or 0))

    def _scored(self, rows: Sequence[Any]) -> list[Pair]:
        """Rows of feedback with all scores of their answers."""
        if not rows:
            return []
        scores: dict[str, dict[str, float]] = {}
        names = list({row.response_id for row in rows})
        with self._database.read() as connection:
            for start in range(0, len(names), MOST_PAIRS):
                part = names[start : start + MOST_PAIRS]
                query = select(_S.response_id, _S.metric, _S.value).where(_S.response_id.in_(part)).order_by(_S.id)
                for response, metric, value in connection.execute(query):
                    scores.setdefault(response, {})[metric] = value
        return [
            Pair(
                row.id, row.at, bytes(row.unit), row.assignment, row.response_id, row.score,
                scores.get(row.response_id, {}),
            )
            for row in rows
        ]

    def _counted(self, pairs: Sequence[Pair], mine: ColumnElement[bool], wanted: Wanted) -> set[tuple[bytes, float]]:
        """(unit, day) of users who had their word of that day before these pairs."""
        if not pairs:
            return set()
        units = list({pair.unit for pair in pairs})
        days = [pair.at // DAY * DAY for pair in pairs]
        scored = exists(select(_S.id).where(_S.response_id == _F.response_id, wanted.scored))
        query = select(_F.unit, _F.at).where(
            _F.unit.in_(units), _F.at >= min(days), _F.at < max(days) + DAY, _F.id < pairs[0].id, mine, scored
        )
        with self._database.read() as connection:
            return {(bytes(unit), at // DAY) for unit, at in connection.execute(query)}


def _once_a_day(pairs: Iterable[Pair], counted: set[tuple[bytes, float]]) -> list[Pair]:
    """The first of each user and day; `counted` is added to."""
    kept = []
    for pair in pairs:
        key = (pair.unit, pair.at // DAY)
        if key not in counted:
            counted.add(key)
            kept.append(pair)
    return kept
