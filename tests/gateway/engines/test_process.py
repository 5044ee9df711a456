from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from adapters.errors import EngineUnavailable
from gateway.engines.command import Command
from gateway.engines.process import EngineProcess
from gateway.engines.sessions import session_members
from tests.support.waiting import PATIENCE, eventually

LONG = 4 * PATIENCE  # the keeper is a Python, and so is what it starts


def process(tmp_path: Path, *options: str) -> EngineProcess:
    argv = (sys.executable, "-m", "tests.support.fake_vllm", "--uds", str(tmp_path / "e.sock"), *options)
    return EngineProcess("engine-0", Command(argv, {}), f"unix:{tmp_path / 'e.sock'}", tmp_path / "logs" / "e.log")


async def test_one_life(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.engines.process.PROGRESS_EVERY", LONG)  # how long it takes is the machine's affair
    one, said = process(tmp_path), []
    (tmp_path / "e.sock").write_text("")  # left by an earlier life
    record = await one.start()
    assert record.leader in (await asyncio.to_thread(session_members, record.leader))
    await one.wait_ready(LONG, said.append)
    assert one.exit_status is None and said == [said[0]] and "warming up after" in said[0]
    await one.stop()
    assert one.exit_status is not None and session_members(record.leader) == []
    await one.stop()  # once more does no harm


async def test_stop_before_start(tmp_path: Path):
    await process(tmp_path).stop()


async def test_progress_is_shown_while_it_starts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.engines.process.PROGRESS_EVERY", 0.2)
    one, said = process(tmp_path, "--start-after", "600"), []
    await one.start()
    waiting = asyncio.create_task(one.wait_ready(600.0, said.append))
    try:
        await eventually(lambda: any(re.fullmatch(r"engine-0: starting, \d+ s: starting", line) for line in said), LONG)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await one.stop()


async def test_an_end_before_readiness_names_the_cause(tmp_path: Path):
    one = process(tmp_path, "--fail", "no such base")
    await one.start()
    with pytest.raises(EngineUnavailable, match=r"status 1.*ValueError: no such base.*e\.log"):
        await one.wait_ready(LONG, print)
    await one.stop()
