"""Says so when a look takes longer than it may, and goes on waiting for it.

A database that is frozen breaks no connection and raises no error: without this nobody would hear of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

STUCK = 5.0    # seconds

Result = TypeVar("Result")
log = logging.getLogger("understudy.controller")


async def patiently(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, whenever it comes. Cancelled with it."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=STUCK)
        if done:
            return task.result()
        log.error("holding everything as it is: the database has not answered for %g s", STUCK)
        result = await task
        log.info("the database answers again")
        return result
    finally:
        task.cancel()
