"""Many streams: the benchmark's own parts, and a small run of all of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from deploy.bench import routers, streams, upstream, waiting
from deploy.bench.processes import CouldNotStart
from deploy.bench.site import Running
from tests.support.tree import ROOT
from tests.support.waiting import eventually


async def test_the_stand_in_holds_and_floods():
    loop = asyncio.get_running_loop()
    made: list[upstream.Upstream] = []

    def connection() -> upstream.Upstream:
        made.append(upstream.Upstream({}, chunks=3, gap=0.001))
        return made[-1]

    server = await loop.create_server(connection, "127.0.0.1", 0)
    running = Running(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", os.getpid(), "m", "k")
    [paced] = await waiting.connections(running.url, 1, waiting.request(running, "hi", True), lambda s: b"DONE" in s)
    assert paced.seen.count(b" token") == 3
    [held] = await waiting.connections(running.url, 1, waiting.request(running, "[hold]", True), lambda s: b"token" in s)
    [flooded] = await waiting.connections(running.url, 1, waiting.request(running, "[flood]", True), lambda s: True)
    flooded.transport.pause_reading()
    await eventually(lambda: made[-1].paused)
    assert held.seen.count(b" token") == 1
    assert made[-1].paused and 0 < made[-1].left < upstream.FLOOD  # it is held back, not buffered somewhere
    for client in (paced, held, flooded):
        client.transport.abort()
    server.close()


def test_what_went_wrong_is_a_failure():
    found = {
        "pace": {"added": dict.fromkeys(("first_p50", "first_p99", "gap_p50", "gap_p99"), 0.001), "failures": 0,
                 "events_per_second": 20_000.0, "core": 0.3},
        "held": {"bytes_per_stream": 2048.0, "lost": 0},
        "slow": {"bytes_per_client": 4096.0, "another_request_seconds": 0.002},
        "idle": {"connections": 9800, "wanted": 10_000, "lost": 0, "bytes_per_connection": 1024.0, "asked_again": 5,
                 "answered_again": 5},
    }  # fmt: skip
    assert not streams.failed(found)
    text = "\n".join(streams.lines(found, streams.Amounts()))
    assert "added to the first token: 1.00 ms p50, 1.00 ms p99" in text
    assert "9,800 idle connections (as many as `ulimit -n` allows): 1.0 KiB each, 0 lost, 5 of 5 answered again" in text
    for part, name in (("pace", "failures"), ("held", "lost"), ("idle", "lost"), ("idle", "asked_again")):
        assert streams.failed(found | {part: found[part] | {name: 7}})


def test_a_router_that_cannot_be_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(CouldNotStart, match=r"router==9 cannot be installed: .*No such file"):
        routers.environment("router==9", lambda _text: None)
    home = tmp_path / routers.FOLDER / "there-1"
    home.mkdir(parents=True)
    (home / ".installed").touch()
    assert routers.environment("there==1", pytest.fail) == home / "bin"


@pytest.mark.slow
@pytest.mark.long
def test_a_small_run(tmp_path):
    out = tmp_path / "streams.json"
    command = [sys.executable, "-m", "deploy.bench.streams", "--streams", "40", "--seconds", "4", "--rounds", "1"]
    command += ["--length", "1", "--slow", "10", "--idle", "100", "--out", str(out)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["pace"]["events_per_second"] > 100 and found["idle"]["answered_again"] == found["idle"]["asked_again"]
    assert found["slow"]["bytes_per_client"] < 4 * 1024**2  # of 64 MiB
