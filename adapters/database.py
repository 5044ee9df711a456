"""Opens the one database: SQLite in data_dir, or PostgreSQL by URL. The only place that knows their differences.

Transactions: `with database.begin() as connection` writes (on SQLite it takes the write lock at once, so that what
was read inside cannot change before the commit), `with database.read() as connection` only reads. SQLAlchemy's
errors leave both as DatabaseError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from adapters.database_errors import translate
from adapters.errors import ConfigError, DatabaseError
from adapters.settings import DatabaseSettings
from adapters.sqlite_engine import PATIENCE, file_lock, lock_of, open_engine
from adapters.tables import metadata, revisions

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

VERSION_TABLE = "understudy_schema"  # not Alembic's default name: another program's migrations may share the database
MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x756E6465           # PostgreSQL advisory lock that one upgrade holds


def open_database(settings: DatabaseSettings, data_dir: Path, *, upgrade: bool | None = None) -> Database:
    """Open and check the database of `[database].url`.

    `upgrade`: bring the schema to this code's, or (False) only check it. By default SQLite, which is nobody else's,
    upgrades itself; PostgreSQL, which other hosts may be using, waits for `understudy db upgrade`.
    Raises ConfigError for a bad URL, DatabaseError when the database cannot be used.
    """
    if settings.url == "sqlite":
        path = data_dir / "understudy.db"
        database = Database(open_engine(path), lock_of(path))
    else:
        database = Database(_postgres_engine(settings.url))
    try:
        wanted = database.dialect == "sqlite" if upgrade is None else upgrade
        if wanted and database.schema() != head():
            database.upgrade()
        database.check()
    except BaseException:
        database.close()
        raise
    return database


class Database:
    """A pool of connections. May be used from several threads; each transaction belongs to the thread that began it."""

    def __init__(self, engine: Engine, lock_file: Path | None = None) -> None:
        self._reader = engine
        self._writer = engine.execution_options(understudy_write=True)
        self._lock_file = lock_file
        self._sessions: set[Any] = set()
        self.driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self.where = engine.url.database if lock_file else engine.url.render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        """'sqlite' or 'postgresql'."""
        return self._reader.dialect.name

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: commits at the end, rolls back on any exception. Raises DatabaseError."""
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction, on SQLite one consistent view. Raises DatabaseError."""
        with self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise DatabaseError(translate(error, f"database {self.where}")) from error
        except UnicodeEncodeError as error:  # half a surrogate pair, as from a command line that is not UTF-8
            raise DatabaseError(f"database {self.where}: a text to be stored is not valid Unicode") from error

    def driver_session(self) -> Any:
        """The driver's own connection, in autocommit and not of the pool, for `driver_errors` and until `end_session`.

        May be used by any thread, by one at a time.
        """
        pooled = self._reader.raw_connection()
        session: Any = pooled.driver_connection
        pooled.detach()
        if self.dialect == "postgresql":
            session.autocommit = True  # SQLite's are made so
        self._sessions.add(session)
        return session

    def end_session(self, session: Any) -> None:
        """Close what `driver_session` gave; None is fine."""
        self._sessions.discard(session)
        with suppress(self.driver_error):
            if session is not None:
                session.close()

    @contextmanager
    def driver_errors(self) -> Iterator[None]:
        """What the driver raises inside leaves as DatabaseError."""
        with self._translated():
            try:
                yield
            except self.driver_error as error:
                raise DBAPIError.instance(None, None, error, self.driver_error) from error

    def schema(self) -> str | None:
        """The revision of the schema in the database; None while there is none. Raises DatabaseError."""
        with self.read() as connection:
            return _revision(connection)

    def check(self) -> None:
        """Raise DatabaseError unless the database can be reached and has exactly this code's schema."""
        _require(self.schema(), f"database {self.where}", older_is_fine=False)

    def upgrade(self) -> None:
        """Bring the schema to this code's, in one transaction. Safe when several processes do it at once."""
        if self.schema() != head():
            import_module("alembic.command")  # takes seconds on a slow machine: nobody should wait for us that long
        with file_lock(self._lock_file) if self._lock_file else nullcontext(), self.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(select(sqlalchemy.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            found = _revision(connection)
            _require(found, f"database {self.where}", older_is_fine=True)
            if found != head():
                _migrate(connection)

    def close(self) -> None:
        """Close all idle connections, and the sessions."""
        for session in list(self._sessions):
            self.end_session(session)
        self._reader.dispose()


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows on_conflict_do_nothing and on_conflict_do_update, on either database."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def insert_new(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless one with its key exists. True when it was inserted."""
    statement = upsert(connection, table).values(values).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(statement).first() is not None


def bump(connection: Connection, name: str) -> None:
    """Count one change of `name` (keys, registry), in the transaction that makes it: pollers look again."""
    row = upsert(connection, revisions).values(name=name, value=1)
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": revisions.c.value + 1}))


def lock(connection: Connection, name: str) -> None:
    """Hold `name` until the transaction ends: no other transaction that locks it runs meanwhile."""
    if connection.dialect.name == "postgresql":  # on SQLite every write transaction is alone already
        connection.execute(select(sqlalchemy.func.pg_advisory_xact_lock(sqlalchemy.func.hashtextextended(name, 0))))


def head() -> str:
    """The newest revision that this code knows."""
    return max(_known_revisions())


def _known_revisions() -> set[str]:
    return {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py")}


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        return None
    value: str | None = connection.execute(sqlalchemy.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 (our own constant)
    return value


def _require(found: str | None, where: str, *, older_is_fine: bool) -> None:
    if found is not None and found not in _known_revisions():
        raise DatabaseError(f"{where} has schema {found}, newer than this program's {head()}: update understudy")
    if found != head() and not older_is_fine:
        state = f"schema {found}, older than this program's {head()}" if found else "no schema yet"
        raise DatabaseError(f"{where} has {state}: run `understudy db upgrade`")


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "metadata": metadata, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")


def _postgres_engine(text: str) -> Engine:
    try:
        url = sqlalchemy.make_url(text)
        if url.drivername not in ("postgresql", "postgresql+psycopg"):
            raise ConfigError(f'database.url is for {url.drivername}: write "sqlite" or "postgresql+psycopg://user@host/name"')
        options = f"{url.query.get('options', '')} -c lock_timeout={PATIENCE * 1000}".strip()
        patience: dict[str, Any] = {
            "connect_timeout": 5, "tcp_user_timeout": PATIENCE * 1000, "options": options,
            "client_encoding": "utf8",  # or a database without one (SQL_ASCII) would answer with bytes
        }  # fmt: skip
        given = {key: value for key, value in patience.items() if key == "options" or key not in url.query}
        url = url.set(drivername="postgresql+psycopg")
        return sqlalchemy.create_engine(url, connect_args=given, pool_pre_ping=True, pool_recycle=1800)
    except (ArgumentError, ValueError):
        raise ConfigError('database.url is no URL: write "sqlite" or "postgresql+psycopg://user@host/name"') from None
