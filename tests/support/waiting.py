"""Waiting for what must happen: the deadline only ends a test that has failed, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds


async def eventually(true: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value; the test fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)
    return found


def soon(true: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The same, for tests without a loop."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


async def at_rest(count: Callable[[], float], seconds: float = 1.0) -> float:
    """A count that has begun to rise, once it has stood still for a while."""
    last, since = count(), time.monotonic()
    end = since + PATIENCE
    while not last or time.monotonic() - since < seconds:
        assert time.monotonic() < end, f"it does not come to rest: {last}"
        await asyncio.sleep(0.05)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last
