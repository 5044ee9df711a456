"""What is there when a file of tests begins, the collector no longer looks at: torch, vLLM's client, models, fixtures.

By the end of the suite these are millions of objects, and a full collection took seconds, again and again: an import of
statsmodels 35 s instead of 6.
"""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test of a file: collect what it left behind, and keep the rest out of later collections."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_finish() -> None:
    """The same for what collecting has imported."""
    gc.collect()
    gc.freeze()
