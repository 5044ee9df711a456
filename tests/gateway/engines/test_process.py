from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from adapters.errors import EngineUnavailable
from gateway.engines.command import Command
from gateway.engines.process import EngineProcess
from gateway.engines.sessions import session_members


def process(tmp_path: Path, *options: str) -> EngineProcess:
    argv = (sys.executable, "-m", "tests.support.fake_vllm", "--uds", str(tmp_path / "e.sock"), *options)
    return EngineProcess("engine-0", Command(argv, {}), f"unix:{tmp_path / 'e.sock'}", tmp_path / "logs" / "e.log")


async def test_one_life(tmp_path: Path):
    one, said = process(tmp_path), []
    (tmp_path / "e.sock").write_text("")  # left by an earlier life
    record = await one.start()
    assert record.leader in (await asyncio.to_thread(session_members, record.leader))
    await one.wait_ready(60.0, said.append)
    assert one.exit_status is None and said == [said[0]] and "warming up after" in said[0]
    await one.stop()
    assert one.exit_status is not None and session_members(record.leader) == []
    await one.stop()  # once more does no harm


async def test_stop_before_start(tmp_path: Path):
    await process(tmp_path).stop()


async def test_progress_is_shown_while_it_starts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.engines.process.PROGRESS_EVERY", 0.2)
    one, said = process(tmp_path, "--start-after", "2"), []
    await one.start()
    try:
        await one.wait_ready(60.0, said.append)
    finally:
        await one.stop()
    assert any(line.startswith("engine-0: starting, ") and line.endswith("s: starting") for line in said)


async def test_an_end_before_readiness_names_the_cause(tmp_path: Path):
    one = process(tmp_path, "--fail", "no such base")
    await one.start()
    with pytest.raises(EngineUnavailable, match=r"status 1.*ValueError: no such base.*e\.log"):
        await one.wait_ready(60.0, print)
    await one.stop()
