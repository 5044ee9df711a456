"""Accounts of requests as the data plane makes them, for tests of what comes after an answer."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import Any

from gateway.data_plane.auth import Principal
from gateway.data_plane.call import Timeouts
from gateway.data_plane.endpoints import CHAT
from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.protocol import parse
from gateway.data_plane.routing import Target
from gateway.data_plane.sse import Usage
from gateway.data_plane.upstreams import Upstream
from monitors.conventions import Outcome

NOBODY = Principal("", b"none", "", frozenset(), frozenset())


def exchange(target: Target, selected: int = 0) -> Exchange:
    """An admitted request for `target`."""
    request = parse(CHAT, b'{"model":"support","messages":[]}', 16)
    return Exchange(
        request, target, "r", b"request", b"12345678", time.monotonic(), b"", [], NOBODY, 0, selected=selected
    )


def finished(target: Target, *, selected: int = 0, **changes: Any) -> Finished:
    """A good answer, but for `changes`."""
    done = Finished(exchange(target, selected), 200, Outcome.OK, 0.5, None, 0.0, Usage())
    for name, value in changes.items():
        setattr(done, name, value)
    return done


@cache
def upstream(name: str) -> Upstream:
    """An engine that is not asked anything."""

    async def made() -> Upstream:
        return Upstream(name, "http://127.0.0.1:1", "", Timeouts())

    return asyncio.run(made())
