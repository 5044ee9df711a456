"""Opening, upgrading and transactions, on real SQLite and PostgreSQL."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from adapters import tables
from adapters.database import VERSION_TABLE, bump, head, lock, open_database, upsert
from adapters.errors import ConfigError, DatabaseError
from adapters.settings import DatabaseSettings

SPAWN = multiprocessing.get_context("spawn")


def value(database, name):
    with database.read() as connection:
        return connection.execute(select(tables.revisions.c.value).where(tables.revisions.c.name == name)).scalar()


def test_migrations_make_exactly_the_tables(database):
    options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={**options, "target_metadata": tables.metadata})
        assert compare_metadata(context, tables.metadata) == []


def test_names_of_constraints_are_those_of_the_tables(database):
    """Autogenerate does not compare names, and later migrations need them."""
    with database.read() as connection:
        inspector = sqlalchemy.inspect(connection)
        for table in tables.metadata.sorted_tables:
            found = {item["name"] for item in inspector.get_foreign_keys(table.name)}
            found |= {item["name"] for item in inspector.get_unique_constraints(table.name)}
            found |= {inspector.get_pk_constraint(table.name)["name"]}
            assert found == {str(item.name) for item in table.constraints}, table.name


def test_postgres_waits_for_the_upgrade_command_and_sqlite_does_not(database_settings, data_dir):
    if database_settings.url == "sqlite":
        database = open_database(database_settings, data_dir)
        assert database.schema() == head()
        database.close()
        return
    with pytest.raises(DatabaseError, match=r"has no schema yet: run `understudy db upgrade`"):
        open_database(database_settings, data_dir)
    open_database(database_settings, data_dir, upgrade=True).close()
    open_database(database_settings, data_dir).close()


def test_an_empty_database_that_must_not_be_upgraded_is_refused(database_settings, data_dir):
    with pytest.raises(DatabaseError, match="no schema yet: run `understudy db upgrade`"):
        open_database(database_settings, data_dir, upgrade=False)


@pytest.mark.parametrize("found", ["0000", "9999"])
def test_a_schema_that_this_program_does_not_know_is_refused(database, database_settings, data_dir, found):
    message = "newer than this program"
    with database.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{found}'"))
    for upgrade in (None, True, False):
        with pytest.raises(DatabaseError, match=message):
            open_database(database_settings, data_dir, upgrade=upgrade)
    with pytest.raises(DatabaseError, match=message):
        database.check()


def test_an_interrupted_upgrade_changes_nothing(database_settings, data_dir, monkeypatch):
    """The last step of the first migration fails: no table is left, and the next upgrade is whole."""
    from alembic import op

    with monkeypatch.context() as broken:
        broken.setattr(op, "create_index", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            open_database(database_settings, data_dir, upgrade=True)
    with pytest.raises(DatabaseError, match="no schema yet"):
        open_database(database_settings, data_dir, upgrade=False)
    open_database(database_settings, data_dir, upgrade=True).close()


def _open_at_once(url, data_dir, gate):
    gate.wait(150)
    database = open_database(DatabaseSettings(url=url), data_dir, upgrade=True)
    with database.begin() as connection:
        bump(connection, "opened")
    database.close()


def test_several_processes_upgrade_at_once(database_settings, data_dir):
    gate = SPAWN.Barrier(5)
    processes = [SPAWN.Process(target=_open_at_once, args=(database_settings.url, data_dir, gate)) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0] * 5
    database = open_database(database_settings, data_dir)
    assert value(database, "opened") == 5
    database.close()


def test_no_alembic_where_the_schema_is_up_to_date(data_dir):
    program = (
        "import sys; from pathlib import Path; from adapters.database import open_database;"
        "from adapters.settings import DatabaseSettings; open_database(DatabaseSettings(), Path(sys.argv[1])).close();"
        "print('alembic' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program, data_dir], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [run.strip() for run in runs] == ["True", "False"]


def test_the_sqlite_file_is_private(data_dir):
    open_database(DatabaseSettings(), data_dir).close()
    assert (data_dir / "understudy.db").stat().st_mode & 0o077 == 0
    assert data_dir.stat().st_mode & 0o077 == 0


def test_a_failed_transaction_leaves_nothing(database):
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        bump(connection, "x")
        raise ZeroDivisionError
    assert value(database, "x") is None


def test_threads_count_without_losing_one(database):
    def work():
        for _ in range(20):
            with database.begin() as connection:
                bump(connection, "x")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(database, "x") == 120


def test_what_a_writer_read_stays_true_under_a_lock(database):
    """Read, think, write: with `lock` (PostgreSQL) or by being alone (SQLite) no update is lost."""

    def work():
        for _ in range(20):
            with database.begin() as connection:
                lock(connection, "counter")
                query = select(tables.secrets.c.value).where(tables.secrets.c.name == "n")
                number = int(connection.execute(query).scalar() or 0) + 1
                row = upsert(connection, tables.secrets).values(name="n", value=str(number).encode())
                connection.execute(
                    row.on_conflict_do_update(index_elements=["name"], set_={"value": str(number).encode()})
                )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(select(tables.secrets.c.value)).scalar() == b"80"


def test_readers_do_not_wait_for_a_writer(database):
    with database.begin() as writer:
        bump(writer, "x")
        assert value(database, "x") is None
    assert value(database, "x") == 1


def test_foreign_keys_are_enforced(database):
    with pytest.raises(DatabaseError), database.begin() as connection:
        connection.execute(tables.routes.insert().values(name="r", version="nobody@0123456789ab"))


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite:///x.db", "nonsense", "", "postgresql://h:port/x"])
def test_other_urls_are_refused(url, tmp_path):
    with pytest.raises(ConfigError, match=r'^database\.url .*write "sqlite" or'):
        open_database(DatabaseSettings(url=url), tmp_path)
