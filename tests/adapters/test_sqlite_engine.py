"""The SQLite file: its modes, its pragmas, and processes that hold its lock or die while they write."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import sqlite3
import time

import pytest
from sqlalchemy import text

from adapters import tables
from adapters.database import bump, open_database
from adapters.errors import DatabaseError
from adapters.settings import DatabaseSettings
from adapters.sqlite_engine import file_lock, lock_of, open_engine
from tests.support.waiting import soon

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "understudy.db"


def test_a_new_file_is_in_write_ahead_mode_and_connections_check_foreign_keys(path):
    engine = open_engine(path)
    with engine.connect() as connection:
        found = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
    engine.dispose()
    assert found == ["wal", 1]
    assert path.stat().st_size > 0


def test_a_creation_that_was_killed_is_done_again(path):
    path.parent.mkdir()
    path.touch()
    open_engine(path).dispose()
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_process_that_keeps_the_lock_is_named_after_a_while(path, monkeypatch):
    monkeypatch.setattr("adapters.sqlite_engine.PATIENCE", 0.1)
    path.parent.mkdir()
    with lock_of(path).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatabaseError, match=r"understudy\.db: another process is upgrading it"):
            open_engine(path)
    with file_lock(lock_of(path)):
        pass


def _count(data_dir, ready):
    database = open_database(DatabaseSettings(), data_dir)
    ready.set()
    while True:
        with database.begin() as connection:
            bump(connection, "x")
            connection.execute(tables.secrets.insert().values(name=os.urandom(8).hex(), value=os.urandom(5000)))


def test_a_writer_that_is_killed_breaks_nothing(path):
    """kill -9 in the middle of transactions: the others go on, and every committed pair of changes is whole."""
    database = open_database(DatabaseSettings(), path.parent)

    def counted() -> int:
        with database.read() as connection:
            return connection.execute(text("SELECT value FROM revisions")).scalar() or 0

    count = 0
    for seed in range(3):
        ready = SPAWN.Event()
        process = SPAWN.Process(target=_count, args=(path.parent, ready))
        process.start()
        assert ready.wait(60)
        soon(lambda before=count: counted() > before)
        time.sleep(random.Random(seed).uniform(0.01, 0.1))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        with database.begin() as connection:
            count = connection.execute(text("SELECT value FROM revisions")).scalar() or 0
            assert connection.execute(text("SELECT count(*) FROM secrets")).scalar() == count
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    assert count > 0
    database.close()
