"""Fixtures for all tests: databases of both kinds, a small base, and adapters made for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from adapters.base import BaseModelInfo, read_base, resolve_base
from adapters.database import Database, open_database
from adapters.settings import DatabaseSettings
from deploy.proof.postgres import Postgres

_SUPPORT = ("heap", "compiled", "left_out", "groups", "postgres", "disk", "commands", "stack", "engine")
pytest_plugins = [f"tests.support.{name}" for name in _SUPPORT]

# How long an example takes says how busy the machine is: no property test may fail for that.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_settings(request: pytest.FixtureRequest) -> Iterator[DatabaseSettings]:
    """`[database]` of an empty database; a test that uses it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield DatabaseSettings()
        return
    server = request.getfixturevalue("postgres")
    migrated = "database" in request.fixturenames
    settings = DatabaseSettings(url=server.create(request.getfixturevalue("migrated") if migrated else "template1"))
    yield settings
    server.drop(settings.url)


@pytest.fixture(scope="session")
def migrated(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a PostgreSQL database that has the schema and nothing else: to copy one is quicker than to make it."""
    postgres.execute("CREATE DATABASE migrated")
    url = postgres.url("migrated")
    open_database(DatabaseSettings(url=url), tmp_path_factory.mktemp("migrated"), upgrade=True).close()
    return "migrated"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data_dir."""
    return tmp_path / "data"


@pytest.fixture
def database(database_settings: DatabaseSettings, data_dir: Path) -> Iterator[Database]:
    """An open database with the schema, of both kinds."""
    opened = open_database(database_settings, data_dir, upgrade=True)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def demo_base() -> BaseModelInfo:
    """The 4-bit base that is shipped."""
    return read_base(resolve_base("demo"))
