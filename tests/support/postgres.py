"""Real PostgreSQL servers for the tests marked `postgres`: made, started and removed by this session alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.proof.postgres import Postgres, running_postgres

__all__ = ["Postgres", "own_postgres", "postgres"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this test session. Tests that use it carry the mark `postgres`."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server of this test's own, to stop and to start again."""
    with running_postgres() as server:
        yield server
