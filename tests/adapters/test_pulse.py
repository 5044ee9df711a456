"""The cheap query that tells workers and controllers to look again."""

from __future__ import annotations

import sqlite3
import threading
import time

import psycopg
import pytest

from adapters.database import Database, bump, open_database
from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore
from adapters.pulse import Beat, Glance, Pulse
from adapters.settings import DatabaseSettings
from tests.support.waiting import soon


def count(database, name):
    with database.begin() as connection:
        bump(connection, name)


def test_it_sees_what_others_commit_and_nothing_earlier(database: Database):
    pulse = Pulse(database)
    assert pulse.look() == Beat(0, 0, 0)
    count(database, "keys")
    count(database, "registry")
    count(database, "registry")
    number = FleetStore(database).publish({}, 1.0)
    assert pulse.look() == Beat(number, 1, 2)
    with database.begin() as connection:
        bump(connection, "keys")
        assert pulse.look().keys == 1
    assert pulse.look().keys == 2


def test_it_never_keeps_the_log_of_sqlite_from_being_cut(data_dir):
    database = open_database(DatabaseSettings(), data_dir)
    Pulse(database).look()
    count(database, "keys")
    with database.read() as connection:
        busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    assert busy == 0
    database.close()


def test_threads_may_share_one(database: Database):
    pulse, seen = Pulse(database), []
    count(database, "keys")
    threads = [threading.Thread(target=lambda: seen.extend(pulse.look() for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [Beat(0, 1, 0)] * 200


def test_a_database_that_cannot_be_asked_is_a_database_error(data_dir):
    database = open_database(DatabaseSettings(), data_dir)
    with database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE snapshots")
    with pytest.raises(DatabaseError, match="understudy db upgrade"):
        Pulse(database).look()
    database.close()


@pytest.mark.postgres
def test_a_connection_that_was_cut_is_replaced_and_the_last_one_is_closed(postgres, data_dir):
    url = postgres.create()
    name = url.split("@/")[1].split("?")[0]
    database = open_database(DatabaseSettings(url=url), data_dir, upgrade=True)
    pulse = Pulse(database)
    pulse.look()
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    assert pulse.look() == Beat(0, 0, 0)
    database.close()
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    with psycopg.connect(f"host={postgres.folder} user=postgres dbname=postgres", autocommit=True) as connection:
        soon(lambda: connection.execute(query).fetchall() == [(0,)])
    postgres.drop(url)


def test_a_glance_tells_news_and_leaves_doubt_to_a_look(data_dir):
    database = open_database(DatabaseSettings(), data_dir)
    glance = Glance(database)
    assert glance.news()
    glance.open()
    assert [glance.news() for _ in range(3)] == [True, False, False]
    count(database, "keys")
    assert [glance.news() for _ in range(2)] == [True, False]
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE revisions RENAME TO gone")
    assert [glance.news() for _ in range(2)] == [True, True]
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO revisions")
    assert glance.news()
    glance.open()
    assert [glance.news() for _ in range(2)] == [True, False]
    database.close()


def test_a_glance_never_waits(data_dir):
    """Somebody has the whole file to himself, as a repair may: whoever opens it waits ten seconds for him."""
    database = open_database(DatabaseSettings(), data_dir)
    glance = Glance(database)
    database.close()
    owner = sqlite3.connect(data_dir / "understudy.db", isolation_level=None)
    owner.execute("PRAGMA locking_mode = EXCLUSIVE")
    owner.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    assert glance.news() and time.monotonic() - begun < 5.0
    owner.close()
    glance.open()
    assert glance._session.execute("PRAGMA busy_timeout").fetchone() == (0,)
    database.close()
