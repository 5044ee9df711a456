"""Worlds for these tests: one engine, a route `r` that serves a version, and a candidate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adapters.database import Database, open_database
from adapters.settings import DatabaseSettings
from tests.support.traffic import Traffic
from tests.support.world import World, open_world


@pytest.fixture
async def world_of(tmp_path: Path, data_dir: Path) -> AsyncIterator:
    """make(engines=1, **engine settings) → a World on SQLite."""
    async with AsyncExitStack() as stack:

        async def make(engines: int = 1, **settings: int) -> World:
            database: Database = open_database(DatabaseSettings(), data_dir)
            stack.callback(database.close)
            return await stack.enter_async_context(open_world(tmp_path, database, data_dir, engines, **settings))

        yield make


@pytest.fixture
async def world(world_of) -> World:
    """One engine."""
    return await world_of()


@pytest.fixture
def traffic(world: World) -> Traffic:
    """Its users."""
    return Traffic(world)
