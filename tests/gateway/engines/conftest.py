"""Engines for these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.base import BaseModelInfo
from gateway.engines.reconcile import Assigned
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.fake_weights import record_probes
from tests.support.peft import small_base, write_adapter


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """A fake engine on a Unix socket."""
    with fake_engine(tmp_path / "e.sock") as started:
        yield started


@pytest.fixture
def base(tmp_path: Path) -> BaseModelInfo:
    """A tiny base."""
    return small_base(tmp_path / "base")


@pytest.fixture
def make(tmp_path: Path, base: BaseModelInfo):
    """make(seed) → an adapter with probes that the fake engine reproduces, as something to assign."""

    def make_one(seed: int = 0, probes: bool = True) -> Assigned:
        folder = write_adapter(tmp_path / f"adapter-{seed}", base, seed=seed)
        recorded = record_probes(folder)
        return Assigned(f"r@{seed:012x}", str(folder), recorded if probes else None)

    return make_one
