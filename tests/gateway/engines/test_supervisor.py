"""Supervision of real processes: the fake vLLM, whose child ignores SIGTERM, stands in for the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import ConfigError, EngineUnavailable
from gateway.config import EngineSettings
from gateway.engines import supervisor as supervisor_module
from gateway.engines.backoff import Backoff
from gateway.engines.client import EngineClient
from gateway.engines.command import Command, VllmPackage
from gateway.engines.local import LocalEngine, read_state, request_restart, write_state
from gateway.engines.process import EngineProcess
from gateway.engines.sessions import SessionRecord, end_recorded, end_session, record_session, session_members
from gateway.engines.supervisor import EngineSite, EngineSupervisor
from tests.support.python import ROOT
from tests.support.waiting import PATIENCE, eventually

LONG = 4 * PATIENCE  # two or three Pythons, one after the other
FAKE = VllmPackage("vllm-fake", "1", "cpu")


@pytest.fixture
def site(tmp_path: Path, monkeypatch):
    """make(*options) → a site whose command is the fake vLLM with these options."""

    def make(*options: str, ready_timeout: str = "5m") -> EngineSite:
        def command(settings, package, base, url, **more) -> Command:
            argv = (sys.executable, "-m", "tests.support.fake_vllm", "--uds", url.removeprefix("unix:"), *options)
            return Command(argv, {"UNDERSTUDY_TEST": "1"})

        monkeypatch.setattr(supervisor_module, "build_command", command)
        return EngineSite(EngineSettings(ready_timeout=ready_timeout), FAKE, "base", tmp_path, 0)

    return make


class Running:
    """A supervisor in a task."""

    def __init__(self, site: EngineSite) -> None:
        self.site = site
        self.stop = asyncio.Event()
        self.said: list[str] = []
        self.sessions: set[int] = set()
        supervisor = EngineSupervisor(site, self.said.append, Backoff(0.05, 0.1))
        self.task = asyncio.create_task(supervisor.run(self.stop))

    async def state(self, wanted: str, other_than: str = "no boot", patience: float = LONG) -> LocalEngine:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            state = read_state(self.site.data_dir, 0)
            if state is not None and state.session:
                self.sessions.add(state.session.leader)
            if state is not None and state.state == wanted and state.boot != other_than:
                return state
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.02)
        raise AssertionError(f"not {wanted}: {self.said} {read_state(self.site.data_dir, 0)}")


@pytest.fixture
async def run():
    started: list[Running] = []

    def begin(site: EngineSite) -> Running:
        started.append(Running(site))
        return started[-1]

    yield begin
    for running in started:
        running.stop.set()
        with contextlib.suppress(EngineUnavailable, ConfigError):
            await running.task
        for session in running.sessions:
            assert session_members(session) == [], "something of the engine survived"


async def test_ready_and_stopped_with_nothing_left(site, run):
    running = run(site())
    state = await running.state("ready")
    assert state.url == f"unix:{running.site.data_dir}/engines/0.sock" and state.boot
    async with EngineClient(state.url) as client:
        assert "base" in await client.models()
    assert len(session_members(state.session.leader)) == 3  # keeper, server, stubborn child
    running.stop.set()
    await running.task
    assert session_members(state.session.leader) == []
    assert read_state(running.site.data_dir, 0).state == "stopped"
    assert "starting" in running.site.log.read_text()
    assert any("warming up" in line for line in running.said)
    assert running.said[-1].startswith("engine-0: ready at unix:")


async def test_it_comes_back_after_each_kind_of_death(site, run):
    running = run(site())
    state = await running.state("ready")
    for victim in ("server", "keeper"):
        assert b"fake_vllm" in Path(f"/proc/{state.pid}/cmdline").read_bytes()
        os.kill(state.session.leader if victim == "keeper" else state.pid, signal.SIGKILL)
        earlier, state = state, await running.state("ready", other_than=state.boot)
        assert session_members(earlier.session.leader) == []
        assert session_members(state.session.leader) != []
    assert any("starting again in" in line for line in running.said)


async def test_a_restart_is_done_when_asked_for(site, run):
    running = run(site())
    state = await running.state("ready")
    request_restart(running.site.data_dir, 0, "another boot", "NaN")
    await asyncio.sleep(1.2)
    assert read_state(running.site.data_dir, 0).boot == state.boot
    request_restart(running.site.data_dir, 0, state.boot, "NaN after probing r@1")
    await running.state("ready", other_than=state.boot)
    assert any("NaN after probing r@1" in line for line in running.said)


async def test_a_first_start_that_fails_is_one_line_with_the_cause(site, run):
    running = run(site("--fail", "the base has no config.json"))
    with pytest.raises(EngineUnavailable) as caught:
        await running.task
    assert str(caught.value) == (
        "engine-0 ended during its start (status 1); its log says: ValueError: the base has no config.json "
        f"(whole log: {running.site.log})"
    )
    assert read_state(running.site.data_dir, 0).error == str(caught.value)


async def test_an_engine_that_never_becomes_ready(site, run, monkeypatch):
    start = EngineProcess.start

    async def begun(process: EngineProcess) -> SessionRecord:
        """Its time counts from its first line: how long a Python takes until then is the machine's affair."""
        record = await start(process)
        await eventually(lambda: "starting" in process.log.read_text(), LONG)
        return record

    monkeypatch.setattr(EngineProcess, "start", begun)
    running = run(site("--start-after", "600", ready_timeout="1s"))
    with pytest.raises(EngineUnavailable, match=r"not ready after 1 s \(engine.ready_timeout\); its log says: starting"):
        await running.task


async def test_stopping_during_the_start(site, run):
    running = run(site("--start-after", "600"))
    while not session_members_of(running):
        await asyncio.sleep(0.05)
    running.stop.set()
    await asyncio.wait_for(running.task, PATIENCE)
    assert session_members_of(running) == []


def session_members_of(running: Running) -> list[int]:
    state = read_state(running.site.data_dir, 0)
    if state is None or state.session is None:
        return []
    running.sessions.add(state.session.leader)
    return session_members(state.session.leader)


async def test_two_supervisors_do_not_share_a_replica(site, run):
    first = run(site())
    await first.state("ready")
    second = run(site())
    with pytest.raises(ConfigError, match="supervised already"):
        await second.task
    async with EngineClient((await first.state("ready")).url) as client:
        await client.health()


SUPERVISE = """
import asyncio, sys
from pathlib import Path
from gateway.config import EngineSettings
from gateway.engines import supervisor as s
from gateway.engines.command import Command, VllmPackage
s.build_command = lambda settings, package, base, url, **more: Command(
    (sys.executable, "-m", "tests.support.fake_vllm", "--uds", url.removeprefix("unix:")), {})
site = s.EngineSite(EngineSettings(), VllmPackage("fake", "1", "cpu"), "base", Path(sys.argv[1]), 0)
asyncio.run(s.EngineSupervisor(site, print).run(asyncio.Event()))
"""


async def begin_elsewhere(data_dir: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISE, str(data_dir), cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        state = read_state(data_dir, 0)
        if state is not None and state.state == "ready":
            return process, state
        await asyncio.sleep(0.05)
    process.kill()
    raise AssertionError("not ready")


async def gone(session: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while session_members(session) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return session_members(session) == []


async def test_killing_the_supervisor_leaves_nothing(tmp_path: Path):
    process, state = await begin_elsewhere(tmp_path)
    process.kill()
    await process.wait()
    assert await gone(state.session.leader, PATIENCE)


async def test_killing_supervisor_and_keeper_leaves_nothing_after_the_next_start(tmp_path: Path, site, run):
    process, state = await begin_elsewhere(tmp_path)
    process.send_signal(signal.SIGSTOP)  # or whoever goes second sees that the other one went, and cleans up
    os.kill(state.session.leader, signal.SIGKILL)
    process.kill()
    await process.wait()
    await asyncio.sleep(0.5)
    assert session_members(state.session.leader) != []  # the stubborn child is nobody's now
    running = run(site())
    await running.state("ready", other_than=state.boot)
    assert session_members(state.session.leader) == []
    assert any("left over from an earlier run" in line for line in running.said)


def test_somebody_elses_session_is_never_touched(tmp_path: Path, site):
    """The recorded id belongs to another process by now: another start time."""
    theirs = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        now = record_session(theirs.pid)
        assert end_recorded(replace(now, started="1")) == []
        assert end_recorded(replace(now, machine="another boot")) == []
        write_state(tmp_path, 0, LocalEngine("engine-0", "", "ready", 1, session=replace(now, started="1")))
        EngineSupervisor(site(), print)._end_earlier_run()
        assert json.loads((tmp_path / "engines/0.json").read_text())["supervisor"] == 1
        assert session_members(theirs.pid) == [theirs.pid]
        assert end_recorded(now) == [theirs.pid]  # by its own name it is ended
    finally:
        theirs.kill()
        theirs.wait()


def test_sessions_end_whatever_they_do(tmp_path: Path):
    code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); [os.fork() for _ in range(3)]; time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while len(session_members(process.pid)) < 8:
        time.sleep(0.02)
    assert len(end_session(process.pid, 0.2)) == 8
    assert session_members(process.pid) == []
    process.wait(PATIENCE)
