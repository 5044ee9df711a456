"""What evaluation suites found about versions. Rows are never updated; per version and suite the newest counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, desc, func, select

from adapters import tables
from adapters.database import Database


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run of a suite against a version. `body`: see docs/evaluation.md."""

    version: str               # route@…, or base@<12 hex>
    suite: str                 # its name
    suite_digest: str          # of the frozen environment, 64 hex digits: only equal ones can be compared
    source: str                # gateway, local
    body: dict[str, Any]
    at: float = 0.0            # seconds since the epoch
    id: int = 0


class EvaluationStore:
    """Appends and reads evaluations. Methods raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, evaluation: Evaluation) -> Evaluation:
        """Append it; the result carries its id, and the present time unless it has one."""
        at = evaluation.at or time.time()
        values: dict[str, Any] = {
            "version": evaluation.version, "suite": evaluation.suite, "suite_digest": evaluation.suite_digest,
            "source": evaluation.source, "at": at, "body": evaluation.body,
        }  # fmt: skip
        with self._database.begin() as connection:
            key = connection.execute(tables.evaluations.insert().values(values)).inserted_primary_key
        assert key is not None, "the table has an autoincrement key"
        return Evaluation(**values, id=int(key[0]))

    def latest(self, version: str, suite: str | None = None) -> Evaluation | None:
        """The newest of a version, of one suite where given; None: there is none."""
        return next(iter(self.list(version, suite, limit=1)), None)

    def list(self, version: str, suite: str | None = None, limit: int = 1000) -> list[Evaluation]:
        """Evaluations of a version, newest first."""
        rows = tables.evaluations
        query = select(rows).where(rows.c.version == version).order_by(desc(rows.c.id)).limit(limit)
        if suite is not None:
            query = query.where(rows.c.suite == suite)
        with self._database.read() as connection:
            return [_evaluation(row) for row in connection.execute(query).mappings()]

    def newest(self, version: str) -> dict[str, Evaluation]:
        """The newest of each suite that the version was evaluated on."""
        rows = tables.evaluations
        ids = select(func.max(rows.c.id)).where(rows.c.version == version).group_by(rows.c.suite)
        with self._database.read() as connection:
            found = connection.execute(select(rows).where(rows.c.id.in_(ids)).order_by(rows.c.suite)).mappings()
            return {row["suite"]: _evaluation(row) for row in found}


def _evaluation(row: RowMapping) -> Evaluation:
    return Evaluation(**row)
