"""Records of answers, feedback and evidence, written in batches by the workers. No texts but a feedback's comment.

Rows reach the driver as tuples, without SQLAlchemy's work on every row: on SQLite by its cursor's executemany, on
PostgreSQL by COPY (docs/shadow.md has what each costs). A write that failed may have arrived all the same: repeated, it
adds only the answers and scores that are not there (their tables say by which key). Of feedback, pairs and events
readers count the first, or the last.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from adapters.database import Database
from adapters.errors import DatabaseError
from adapters.retention import Retention

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
    "shadow_pairs": ("rollout", "response_id", "at", "unit", "metric", "stable", "candidate", "assignment"),
    "rollout_events": ("rollout", "at", "kind", "actor", "reason", "numbers"),
}  # fmt: skip

_TOGETHER = 20  # rows in one statement on SQLite: each statement run costs, and gives the interpreter away


class ResponseStore:
    """Appends and expires records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._retention = Retention(database)
        self._session: Any = None  # SQLite's, of whoever holds the lock
        self._lock = threading.Lock()

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Rows of `table` in the order of COLUMNS[table], all or none, but what is there already. Raises DatabaseError.

        Any order of tries is safe: of a first try that is still on its way as well, the database keeps one.
        """
        if not rows:
            return
        if table == "feedback":
            rows = [(*row[:-1], _storable(row[-1])) for row in rows]
        if self._database.dialect == "sqlite":
            self._append_to_file(table, rows)
        elif not self._copied(table, rows):
            with self._database.begin() as connection:
                connection.exec_driver_sql(_insert(table, "postgresql"), list(rows))

    def _append_to_file(self, table: str, rows: Sequence[Row]) -> None:
        """One transaction over a connection of its own: SQLAlchemy's part would cost as much as 30 rows do."""
        with self._lock, self._database.driver_errors():
            if self._session is None:
                self._session = self._database.driver_session()
            try:
                self._session.execute("BEGIN IMMEDIATE")
                _insert_all(self._session, table, rows)
                self._session.execute("COMMIT")
            except BaseException:
                session, self._session = self._session, None  # what was begun ends with it
                self._database.end_session(session)
                raise

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

    def prune(self, before: float, enough: Callable[[], bool] = lambda: False) -> int:
        """Delete records older than `before` (seconds since the epoch) that nobody needs, until `enough`; how many."""
        return self._retention.prune(before, enough)

    def shrink(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Give room that the records no longer need back to the disk, where the database can; bytes."""
        return self._retention.shrink(enough)


@functools.cache
def _insert(table: str, dialect: str, together: int = 1) -> str:
    columns = COLUMNS[table]
    marks = ", ".join(["%s" if dialect == "postgresql" else "?"] * len(columns))
    names, values = ", ".join(columns), ", ".join([f"({marks})"] * together)
    return f"INSERT INTO {table} ({names}) VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608 (our own constants)


def _insert_all(session: Any, table: str, rows: Sequence[Row]) -> None:
    """Insert the rows in SQLite's open transaction."""
    whole = len(rows) - len(rows) % _TOGETHER
    if whole:
        statement = _insert(table, "sqlite", _TOGETHER)
        for start in range(0, whole, _TOGETHER):
            session.execute(statement, [value for row in rows[start : start + _TOGETHER] for value in row])
    if whole < len(rows):
        session.executemany(_insert(table, "sqlite"), rows[whole:])


def _copy(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """COPY in the open transaction."""
    statement = f"COPY {table} ({', '.join(COLUMNS[table])}) FROM STDIN"
    session: psycopg.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # the dialect's
    with _driver_errors(connection, statement), session.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


@contextmanager
def _driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """The driver's errors become SQLAlchemy's, as everywhere else."""
    driver = connection.dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        raise DBAPIError.instance(statement, None, error, driver.Error) from error


def _storable(text: str | None) -> str | None:
    """A client's text without what a database cannot hold: NUL, and halves of surrogate pairs."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode()
