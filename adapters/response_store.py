"""Response and feedback records, written in batches by the workers. No texts except a feedback's comment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, delete, func, select

from adapters import tables
from adapters.database import Database

_CHUNK = 5000  # rows looked at per transaction while pruning: no writer waits long


class ResponseStore:
    """Appends and expires records. Rows are dicts with the columns of the table, without `id`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_responses(self, rows: list[dict[str, Any]]) -> None:
        """Append rows of `responses`, all or none. Raises DatabaseError."""
        self._insert(tables.responses, rows)

    def insert_feedback(self, rows: list[dict[str, Any]]) -> None:
        """Append rows of `feedback`, all or none. Raises DatabaseError."""
        self._insert(tables.feedback, [{**row, "comment": _storable(row.get("comment"))} for row in rows])

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            with self._database.begin() as connection:
                connection.execute(table.insert(), rows)

    def prune(self, before: float) -> int:
        """Delete the oldest records up to the first younger than `before` (seconds since the epoch); how many."""
        return sum(self._prune(table, before) for table in (tables.responses, tables.feedback))

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


def _storable(text: str | None) -> str | None:
    """A client's text without what a database cannot hold: NUL, and halves of surrogate pairs."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode()
