"""Fixtures of the registry's tests."""

from __future__ import annotations

import pytest

from adapters.artifacts import ArtifactStore
from adapters.registry import Registry
from adapters.routes import RouteStore
from adapters.settings import ArtifactSettings
from adapters.types import Kind
from tests.support import peft


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny base with three layers; see tests/support/peft.py."""
    return peft.small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(tmp_path, base):
    """A good adapter for that base."""
    return peft.write_adapter(tmp_path / "adapter", base)


@pytest.fixture
def artifacts(data_dir):
    """A local artifact store."""
    return ArtifactStore(ArtifactSettings(), data_dir)


@pytest.fixture
def registry(database, artifacts):
    """A registry on each kind of database."""
    return Registry(database, artifacts)


@pytest.fixture
def routes(database):
    """The routes of the same database."""
    return RouteStore(database)


@pytest.fixture
def push(registry, base, tmp_path):
    """Push an adapter that differs by `seed`."""

    def push_one(route="support", seed=0, **options):
        folder = peft.write_adapter(tmp_path / f"pushed-{seed}", base, seed=seed)
        if options.get("kind") is Kind.REWARD_MODEL:
            peft.add_score_head(folder)
        return registry.push(folder, route, base=base, max_rank=16, actor="tests", **options)

    return push_one
