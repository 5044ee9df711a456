"""One real guard for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.guard import GuardService


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardService]:
    """`understudy guard` with the demo's checkpoint. Do not stop it."""
    service = GuardService(tmp_path_factory.mktemp("guard"))
    try:
        yield service.start()
    finally:
        service.close()
