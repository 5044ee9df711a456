"""What takes too long is said once, and waited for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.control_plane import patience
from gateway.control_plane.patience import patiently


async def test_what_is_quick_is_not_talked_about(caplog):
    async def quick() -> int:
        return 7

    assert await patiently(quick()) == 7 and caplog.messages == []


async def test_what_is_slow_is_said_once_and_still_counts(caplog, monkeypatch):
    monkeypatch.setattr(patience, "STUCK", 0.0)
    go = asyncio.Event()

    async def slow() -> int:
        await go.wait()
        return 8

    waiting = asyncio.ensure_future(patiently(slow()))
    while not caplog.messages:
        await asyncio.sleep(0)
    go.set()
    assert await waiting == 8
    assert caplog.messages[0].startswith("holding everything as it is: the database has not answered")


async def test_errors_and_cancellation_pass_through():
    async def broken() -> None:
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        await patiently(broken())
    ended: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    waiting = asyncio.ensure_future(patiently(endless()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert ended == [True]
