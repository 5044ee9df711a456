"""Opens the SQLite file of a data_dir: private, in write-ahead mode, with transactions that begin when we say so."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from adapters.errors import DatabaseError

PATIENCE = 10  # seconds to wait for another writer
LARGEST_LOG = 64 * 2**20  # bytes that the write-ahead log keeps once it was written back


def open_engine(path: Path) -> Engine:
    """An engine for the file, which is made if it is not there. Raises DatabaseError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size == 0:
            with file_lock(lock_of(path)):
                _create(path)
    except OSError as error:
        raise DatabaseError(f"database {path} cannot be created: {error.strerror}") from error
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("sqlite", database=str(path)), connect_args={"timeout": PATIENCE}
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def lock_of(path: Path) -> Path:
    """The file that whoever creates or upgrades the database holds."""
    return path.with_name(path.name + ".lock")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Be the only process that holds `path`. Raises DatabaseError when another one does for too long."""
    deadline = time.monotonic() + PATIENCE
    try:
        file = path.open("w")
    except OSError as error:
        raise DatabaseError(f"database {path.with_suffix('')} cannot be changed: {error.strerror}") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseError(f"database {path.with_suffix('')}: another process is upgrading it") from None
                time.sleep(0.02)
        yield


def _create(path: Path) -> None:
    """Make an empty private file (keys are in it) in write-ahead mode: readers never wait for a writer."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        connection = sqlite3.connect(path, timeout=PATIENCE)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # first of all, or what is deleted stays in the file
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DatabaseError(f"database {path} cannot be created: {error}") from error
    if mode != "wal":
        raise DatabaseError(f"database {path} needs a local disk (write-ahead log): move data_dir, or use PostgreSQL")


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # sqlite3 begins no transactions of its own: _begin does
    for pragma in ("foreign_keys=ON", "synchronous=NORMAL", f"journal_size_limit={LARGEST_LOG}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("understudy_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
