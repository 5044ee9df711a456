"""Which tests run in the same process when there are several (pytest-xdist): those of a file, and all with an engine.

A vLLM takes half a minute to start and one core: the tests that use one share it, whatever file they are in.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group of every test."""
    for item in items:
        engine = item.get_closest_marker("engine") is not None
        item.add_marker(pytest.mark.xdist_group("engine" if engine else item.path.as_posix()))
