"""What an operator reads when the database cannot be used: one line each, with what to do."""

from __future__ import annotations

import subprocess

import pytest
from sqlalchemy import select

from adapters import tables
from adapters.database import bump, open_database
from adapters.errors import DatabaseError
from adapters.settings import DatabaseSettings


def value(database, name):
    with database.read() as connection:
        return connection.execute(select(tables.revisions.c.value).where(tables.revisions.c.name == name)).scalar()


def test_a_server_that_is_not_there_gives_one_line_without_the_password(tmp_path):
    url = "postgresql+psycopg://me:hidden@127.0.0.1:1/db"
    with pytest.raises(DatabaseError) as caught:
        open_database(DatabaseSettings(url=url), tmp_path)
    message = str(caught.value)
    assert "hidden" not in message
    assert "\n" not in message
    assert "Connection refused" in message


@pytest.mark.postgres
def test_a_database_that_does_not_exist_says_how_to_make_it(postgres, tmp_path):
    with pytest.raises(DatabaseError, match="createdb"):
        open_database(DatabaseSettings(url=postgres.url("nowhere")), tmp_path)


def test_a_file_that_is_no_database(data_dir):
    data_dir.mkdir()
    (data_dir / "understudy.db").write_text("these are my notes, not a database " * 100)
    with pytest.raises(DatabaseError, match="is not a SQLite database"):
        open_database(DatabaseSettings(), data_dir)
    assert (data_dir / "understudy.db").read_text().startswith("these are my notes")


def test_a_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot be created"):
        open_database(DatabaseSettings(), tmp_path / "file" / "data")


def test_a_locked_sqlite_says_so(data_dir, monkeypatch):
    monkeypatch.setattr("adapters.sqlite_engine.PATIENCE", 0.1)
    database = open_database(DatabaseSettings(), data_dir)
    with database.begin(), pytest.raises(DatabaseError, match="locked by another process"), database.begin():
        pass
    database.close()


def test_a_full_disk_says_so_and_loses_nothing(small_disk):
    database = open_database(DatabaseSettings(), small_disk / "data")
    with database.begin() as connection:
        bump(connection, "before")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    with pytest.raises(DatabaseError, match="disk is full: free some space") as caught:
        for number in range(1000):
            with database.begin() as connection:
                connection.execute(tables.secrets.insert().values(name=str(number), value=b"x" * 100_000))
    assert "\n" not in str(caught.value)
    assert value(database, "before") == 1
    ballast.unlink()
    with database.begin() as connection:
        bump(connection, "before")
    assert value(database, "before") == 2
    database.close()


@pytest.mark.parametrize("text", ["half \udc80", "NUL \0"])
def test_text_that_cannot_be_stored_gives_one_line(database, text):
    """SQLite stores NUL; PostgreSQL does not."""
    if "\0" in text and database.dialect == "sqlite":
        return
    with pytest.raises(DatabaseError, match=r"not valid Unicode|NUL") as caught, database.begin() as connection:
        connection.execute(tables.routes.insert().values(name="r", description=text))
    assert "\n" not in str(caught.value)


def test_a_file_system_that_is_read_only(small_disk):
    open_database(DatabaseSettings(), small_disk / "data").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(DatabaseError, match=r"read-only|readonly|cannot be opened") as caught:
            database = open_database(DatabaseSettings(), small_disk / "data")
            with database.begin() as connection:
                bump(connection, "x")
        assert "\n" not in str(caught.value)
        with pytest.raises(DatabaseError, match="cannot be created: Read-only file system"):
            open_database(DatabaseSettings(), small_disk / "new")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


@pytest.mark.postgres
def test_a_server_that_dropped_our_connections_is_asked_again(postgres, tmp_path):
    """A failure in the middle of a transaction is one line; the next transaction gets a new connection."""
    database = open_database(DatabaseSettings(url=postgres.create()), tmp_path, upgrade=True)
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'"
    postgres.execute(drop)
    assert value(database, "x") is None
    with pytest.raises(DatabaseError) as caught, database.begin() as connection:
        bump(connection, "x")
        postgres.execute(drop)
        bump(connection, "x")
    assert "\n" not in str(caught.value)
    assert value(database, "x") is None
    with database.begin() as connection:
        bump(connection, "x")
    assert value(database, "x") == 1
    database.close()
