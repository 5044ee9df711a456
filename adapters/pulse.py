"""What has changed, asked many times a second at the least cost: one query, over a connection of its own.

SQLAlchemy's part of a query (pool, transaction, result) costs several times what the database does for it; a worker
and a controller that ask 20 times a second would spend more on it than on everything else while nothing happens
(docs/scaling.md has the figures).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from adapters.database import Database

_QUERY = """
SELECT (SELECT max(id) FROM snapshots),
       (SELECT value FROM revisions WHERE name = 'keys'),
       (SELECT value FROM revisions WHERE name = 'registry')
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """One reading: the newest snapshot's id, how often keys changed, how often routes, versions or rollouts did."""

    snapshot: int = 0
    keys: int = 0
    registry: int = 0


class Pulse:
    """May be asked from any thread. A broken connection is given up; the next look opens another.

    The database closes what is open when it is closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: Any = None
        self._lock = threading.Lock()

    def look(self) -> Beat:
        """The numbers as they are committed now; 0 for what was never written. Raises DatabaseError."""
        with self._lock, self._database.driver_errors():
            if self._session is not None:
                try:
                    return self._ask()
                except self._database.driver_error:  # it broke while nobody asked: the server may be back since
                    self._drop()
            try:
                self._session = self._database.driver_session()
                return self._ask()
            except BaseException:
                self._drop()
                raise

    def _ask(self) -> Beat:
        # All rows: a statement that is not at its end would keep SQLite's log from being cut.
        [(snapshot, keys, registry)] = self._session.execute(_QUERY).fetchall()
        return Beat(snapshot or 0, keys or 0, registry or 0)

    def _drop(self) -> None:
        session, self._session = self._session, None
        self._database.end_session(session)


class Glance:
    """Whether there may be something new, for an event loop: asked of SQLite, in the loop's thread, without waiting.

    Waking another thread for `Pulse.look` costs ten times what the query does (docs/profile.md). That other thread
    opens and closes what is asked, which may take a while.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: Any = None
        self._broken: Any = None
        self._seen: object = None
        self.possible = database.dialect == "sqlite"  # over a network it would wait

    def open(self) -> None:
        """Make asking possible, if it is not. May wait: not for the loop. Raises DatabaseError."""
        if not self.possible or self._session is not None:
            return
        broken, self._broken = self._broken, None
        self._database.end_session(broken)
        with self._database.driver_errors():
            session = self._database.driver_session()
            session.execute("PRAGMA busy_timeout = 0")
        self._session = session

    def news(self) -> bool:
        """True when something was committed since the last time, or when only a look can tell."""
        session = self._session
        if session is None:
            return True
        try:
            seen = session.execute(_QUERY).fetchall()
        except self._database.driver_error:
            self._session, self._broken, self._seen = None, session, None
            return True
        before, self._seen = self._seen, seen
        return bool(seen != before)
