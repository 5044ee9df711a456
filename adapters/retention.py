"""Deletes what is older than its time, a little at a time, but for what somebody still needs as evidence.

Never deleted: records of a route with an open rollout, back to the beginning of its covariates; of each route the
newest feedback to the versions that serve or served last, with the scores of those answers, on which reward collapse
is calibrated; rollouts, gates, evaluations and every history of them (they grow with releases, not with requests).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, delete, exists, func, not_, or_, select

from adapters import tables
from adapters.database import Database

CHUNK = 2000                    # rows looked at in one transaction
COVARIATES = 14 * 86400.0       # seconds before an open rollout whose records are kept (gateway.rollout.measure)
BASELINE = 20_000               # feedbacks a route that are kept whatever their age
_FREE = 0.5                     # share of a SQLite file that may be empty before it is given back to the disk
_PAGES = 1000                   # given back in one transaction

_A, _O = tables.assignments.c, tables.rollouts.c


class Retention:
    """For one thread. `pause(seconds)` is called after each transaction, for as long as it took: others write too.

    Where `enough()` says so, the methods stop after the transaction that is under way.
    """

    def __init__(self, database: Database, pause: Callable[[float], None] = time.sleep) -> None:
        self._database = database
        self._pause = pause
        self._evidence: tuple[Any, ...] = ()          # what is protected; when it changes, all is looked at again
        self._kept_to: dict[str, int] = {}            # table → id up to which everything that is left is protected
        self._enough: Callable[[], bool] = lambda: False

    def prune(self, before: float, enough: Callable[[], bool] = lambda: False) -> int:
        """Delete records older than `before` (seconds since the epoch); how many. Raises DatabaseError."""
        rollouts, serving = self._needed()
        self._enough = enough
        if (rollouts, serving) != self._evidence:
            self._evidence, self._kept_to = (rollouts, serving), {}
        under_way = _under_way if rollouts else None
        deleted = self._prune(tables.responses, before, under_way)
        deleted += self._prune(tables.feedback, before, under_way, partial(self._baselines, serving))
        deleted += self._prune(tables.scores, before, under_way, _has_feedback)
        deleted += self._prune(tables.shadow_pairs, before, _open if rollouts else None)
        return deleted + self._forget_bad_events(before)

    def shrink(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Give what a SQLite file does not need back to the disk, when that is much; bytes. Raises DatabaseError."""
        if self._database.dialect != "sqlite":
            return 0
        given = 0
        with self._database.driver_errors():
            session = self._database.driver_session()
            try:
                pages, free, size = (
                    session.execute(f"PRAGMA {name}").fetchall()[0][0]
                    for name in ("page_count", "freelist_count", "page_size")
                )
                surplus = free - (pages - free) // 3 if free > pages * _FREE else 0  # a quarter stays empty
                while given < surplus and not enough():  # a script, because `execute` stops at the first page
                    self._timed(partial(session.executescript, f"PRAGMA incremental_vacuum({_PAGES})"))
                    given += _PAGES
                left = session.execute("PRAGMA freelist_count").fetchall()[0][0]
            finally:
                self._database.end_session(session)
        return int((free - left) * size)

    def _needed(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Open rollouts, and versions that serve or may serve again."""
        routes = tables.routes.c
        with self._database.read() as connection:
            rollouts = tuple(connection.execute(select(_O.id).where(_O.ended_at.is_(None)).order_by(_O.id)).scalars())
            named = connection.execute(select(routes.version, routes.previous, routes.target)).all()
        return rollouts, tuple(sorted({name for row in named for name in row if name}))

    def _baselines(self, versions: tuple[str, ...]) -> ColumnElement[bool] | None:
        """The newest feedback to each of these versions."""
        rows, kept = tables.feedback.c, []
        with self._database.read() as connection:
            for version in versions:
                arms = list(connection.execute(select(_A.id).where(_A.version == version)).scalars())
                newest = select(rows.id).where(rows.assignment.in_(arms)).order_by(rows.id.desc())
                oldest = connection.execute(newest.offset(BASELINE - 1).limit(1)).scalar()
                kept.append(and_(rows.assignment.in_(arms), rows.id >= (oldest or 0)))
        return or_(*kept) if kept else None

    def _prune(
        self,
        table: Table,
        before: float,
        under_way: Callable[[Any], ColumnElement[bool]] | None,
        kept: Callable[[], ColumnElement[bool] | None] = lambda: None,
    ) -> int:
        """Rows come in nearly the order of their ids: the primary key finds the old ones without another index."""
        rows = table.c
        deleted, cursor, settled = 0, self._kept_to.get(table.name, 0), True
        conditions: list[ColumnElement[bool]] | None = None
        while True:
            last, young = self._oldest(table, cursor, before)
            if last is None or self._enough():
                return deleted
            if conditions is None:
                needed = (under_way(rows) if under_way else None, kept())
                conditions = [not_(condition) for condition in needed if condition is not None]
            old = (rows.id > cursor, rows.id <= last, rows.at < before)
            deleted += self._timed(partial(self._delete, table, and_(*old, *conditions)))
            cursor = last
            settled = settled and not young
            if settled:  # what is younger now will be old later, and is looked at again
                self._kept_to[table.name] = cursor

    def _oldest(self, table: Table, cursor: int, before: float) -> tuple[int | None, int]:
        """Of the next rows: the last id that is old, and how many up to there are not."""
        ahead: Select[Any] = (
            select(table.c.id, table.c.at).where(table.c.id > cursor).order_by(table.c.id).limit(CHUNK)
        )
        chunk = ahead.subquery()
        old = select(func.max(chunk.c.id)).where(chunk.c.at < before).scalar_subquery()
        young = select(func.count()).select_from(chunk).where(chunk.c.at >= before, chunk.c.id < old).scalar_subquery()
        with self._database.read() as connection:
            last, count = connection.execute(select(old, young)).one()
        return last, count or 0

    def _delete(self, table: Table, condition: ColumnElement[bool]) -> int:
        with self._database.begin() as connection:
            return connection.execute(delete(table).where(condition)).rowcount

    def _forget_bad_events(self, before: float) -> int:
        """Of rollouts that ended before: their history says what came of them."""
        rows, deleted = tables.bad_events, 0
        ended = select(_O.id).where(_O.ended_at < before)
        while True:
            some = select(rows.c.id).where(rows.c.rollout.in_(ended)).limit(CHUNK)
            count: int = self._timed(partial(self._delete, rows, rows.c.id.in_(some)))
            deleted += count
            if not count or self._enough():
                return deleted

    def _timed(self, call: Callable[[], Any]) -> Any:
        began = time.monotonic()
        result = call()
        self._pause(time.monotonic() - began)
        return result


def _under_way(rows: Any) -> ColumnElement[bool]:
    """Of a route with an open rollout, and not older than its covariates."""
    mine = and_(_A.id == rows.assignment, _O.route == _A.route, _O.ended_at.is_(None))
    return exists(select(_O.id).where(mine, rows.at >= _O.started_at - COVARIATES))


def _open(rows: Any) -> ColumnElement[bool]:
    """Of an open rollout."""
    return exists(select(_O.id).where(_O.id == rows.rollout, _O.ended_at.is_(None)))


def _has_feedback() -> ColumnElement[bool]:
    """A score goes with the last word about its answer."""
    words = tables.feedback.c
    return exists(select(words.id).where(words.response_id == tables.scores.c.response_id))
