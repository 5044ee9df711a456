"""Records of answers, feedback and evidence, written in batches by the workers. No texts but a feedback's comment.

Rows reach the driver as tuples, without SQLAlchemy's work on every row: on SQLite by its cursor's executemany, on
PostgreSQL by COPY (docs/shadow.md has what each costs). A write that failed may have arrived all the same: repeated, it
adds only the answers and scores that are not there (their tables say by which key). Of feedback, pairs and events
readers count the first, or the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, delete, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from adapters import tables
from adapters.database import Database
from adapters.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg

Row = tuple[Any, ...]

# The columns that a worker fills, in the order of its rows.
COLUMNS: dict[str, tuple[str, ...]] = {
    "responses": (
        "response_id", "at", "assignment", "unit", "endpoint", "status", "outcome", "ttft", "duration",
        "input_tokens", "output_tokens", "flags",
    ),
    "feedback": ("response_id", "at", "assignment", "unit", "score", "kind", "comment"),
    "scores": ("response_id", "at", "assignment", "unit", "metric", "value"),
    "shadow_pairs": ("rollout", "response_id", "at", "unit", "metric", "stable", "candidate"),
    "rollout_events": ("rollout", "at", "kind", "actor", "reason", "numbers"),
}  # fmt: skip

_PRUNED = (tables.responses, tables.feedback, tables.scores, tables.shadow_pairs)
_CHUNK = 5000  # rows looked at per transaction while pruning: no writer waits long


class ResponseStore:
    """Appends and expires records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Rows of `table` in the order of COLUMNS[table], all or none, but what is there already. Raises DatabaseError.

        Any order of tries is safe: of a first try that is still on its way as well, the database keeps one.
        """
        if not rows:
            return
        if table == "feedback":
            rows = [(*row[:-1], _storable(row[-1])) for row in rows]
        if self._database.dialect == "postgresql" and self._copied(table, rows):
            return
        with self._database.begin() as connection:
            connection.exec_driver_sql(_insert(table, connection.dialect.name), list(rows))

    def _copied(self, table: str, rows: Sequence[Row]) -> bool:
        """COPY, which knows no conflicts: False when there was one, and then nothing was written."""
        try:
            with self._database.begin() as connection:
                _copy(connection, table, rows)
        except DatabaseError as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            raise
        return True

    def insert_responses(self, rows: list[dict[str, Any]]) -> None:
        """The same for rows of `responses` as dicts; `flags` may be left out. Raises DatabaseError."""
        self.append("responses", [tuple({"flags": 0, **row}[name] for name in COLUMNS["responses"]) for row in rows])

    def insert_feedback(self, rows: list[dict[str, Any]]) -> None:
        """The same for rows of `feedback` as dicts; `comment` may be left out. Raises DatabaseError."""
        self.append("feedback", [tuple({"comment": None, **row}[name] for name in COLUMNS["feedback"]) for row in rows])

    def prune(self, before: float) -> int:
        """Delete the oldest records up to the first younger than `before` (seconds since the epoch); how many."""
        return sum(self._prune(table, before) for table in _PRUNED)

    def _prune(self, table: Table, before: float) -> int:
        """Rows come in nearly the order of their ids: the primary key finds the old ones without another index."""
        deleted = 0
        while True:
            oldest = select(table.c.id, table.c.at).order_by(table.c.id).limit(_CHUNK).subquery()
            with self._database.begin() as connection:
                last = connection.execute(select(func.max(oldest.c.id)).where(oldest.c.at < before)).scalar()
                if last is None:
                    return deleted
                old = (table.c.id <= last, table.c.at < before)
                deleted += connection.execute(delete(table).where(*old)).rowcount


def _insert(table: str, dialect: str) -> str:
    columns = COLUMNS[table]
    marks = ", ".join(["%s" if dialect == "postgresql" else "?"] * len(columns))
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 (our own constants)


def _copy(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """COPY in the open transaction; the driver's errors become SQLAlchemy's, as everywhere else."""
    driver = connection.dialect.loaded_dbapi
    statement = f"COPY {table} ({', '.join(COLUMNS[table])}) FROM STDIN"
    try:
        session: psycopg.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # the dialect's
        with session.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except driver.Error as error:
        raise DBAPIError.instance(statement, None, error, driver.Error) from error


def _storable(text: str | None) -> str | None:
    """A client's text without what a database cannot hold: NUL, and halves of surrogate pairs."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode()
