"""Says in one line what a driver's error means to an operator. Used by adapters.database only."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

_FULL = "the disk is full: free some space, then repeat; nothing was changed"
_LOCKED = "locked by another process for too long: look for one that is stopped, or a backup, then repeat"
_SCHEMA = "the schema does not fit this program: run `understudy db upgrade`"
_READ_ONLY = "cannot be written: check its owner and permissions, and that it is not a standby"

_REFUSED = "refused the user name or password of database.url"
_CONNECTIONS = "has no free connection: raise max_connections, or run fewer workers"

# What SQLite, or PostgreSQL before a connection stands, says (in lower case) → what to do.
_TEXTS = {
    "database is locked": _LOCKED,
    "database or disk is full": _FULL,
    "attempt to write a readonly database": _READ_ONLY,
    "unable to open database file": "cannot be opened: check that its folder exists and belongs to this user",
    "file is not a database": "is not a SQLite database: restore it from a backup, or move it away",
    "disk image is malformed": "is damaged: restore it from a backup",
    "disk i/o error": "the disk failed to read or write (see the system log)",
    "no such table": _SCHEMA,
    "no such column": _SCHEMA,
    'fatal: database "': "does not exist: create it with `createdb`",
    'fatal: role "': _REFUSED,
    "password authentication failed": _REFUSED,
    "no password supplied": _REFUSED,
    "too many clients": _CONNECTIONS,
    "remaining connection slots": _CONNECTIONS,
    "connection refused": "no server answers there: start PostgreSQL, or correct database.url",
}

# PostgreSQL's SQLSTATE on a connection → what to do (PostgreSQL manual, appendix A).
_POSTGRES = {
    "53100": _FULL,
    "53300": _CONNECTIONS,
    "55P03": _LOCKED,
    "40P01": "two changes waited for each other: repeat the command",
    "40001": "another change came first: repeat the command",
    "25006": _READ_ONLY,
    "42501": "this user may not do that: grant it the rights on its tables",
    "42P01": _SCHEMA,
    "42703": _SCHEMA,
}


def translate(error: SQLAlchemyError, subject: str) -> str:
    """One line, without a password: `subject`, what is wrong, what to do."""
    original = getattr(error, "orig", None) or error
    text = " ".join(str(original).split("\n", maxsplit=1)[0].split()) or type(original).__name__
    advice = _POSTGRES.get(getattr(original, "sqlstate", None) or "")
    advice = advice or next((say for seen, say in _TEXTS.items() if seen in text.lower()), None)
    return f"{subject}: {advice} ({text})" if advice else f"{subject}: {text}"
