"""The hot path without sockets (deploy.bench.hot_path): what no test over a socket can see."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from deploy.bench.hot_path import HotPath, hot_path
from deploy.bench.upstream import DELTA, event, head
from tests.support.tree import ROOT
from tests.support.waiting import PATIENCE


@pytest.fixture
async def path():
    with hot_path() as made:
        yield made


async def test_answers_and_streams_are_the_clients_own(path: HotPath) -> None:
    written: list[bytes] = []
    path.protocol.put = written.append  # this wire remembers
    path.requests(1)
    path.streams(1, chunks=3)
    whole, *_ = written
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n") and b'"model":"bench",' in whole and whole.endswith(b"}}")
    stream = b"".join(written[1:])
    assert stream.count(b'"model":"bench",') == 5 and b"bench@" not in stream.partition(b"\r\n\r\n")[2]
    assert stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and len(written) == 1 + 1 + 3 + 2  # head, deltas, end
    assert path.events.rows == 2


# In a process of its own: the collector sees a whole process, and here others' threads may leave something at any time.
GARBAGE = """
import asyncio, gc, json
from gateway.compiled import prefer
prefer()
from deploy.bench.hot_path import hot_path

def garbage(work):
    gc.collect()
    gc.disable()
    work()
    return gc.collect()

def cycles():
    for _ in range(20):
        cycle = []
        cycle.append(cycle)

async def main():
    with hot_path() as path:
        path.requests(5), path.streams(5)
        found = [garbage(work) for work in (lambda: path.requests(20), lambda: path.streams(20), cycles)]
    print(json.dumps(found))

asyncio.run(main())
"""


def test_requests_leave_no_garbage_to_collect() -> None:
    """A cycle of references for each request would have the collector run all the time."""
    command = [sys.executable, "-c", GARBAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    requests, streams, cycles = json.loads(done.stdout)
    assert (requests, streams) == (0, 0) and cycles == 20


async def test_a_chunk_is_written_by_the_time_its_read_is_over(path: HotPath) -> None:
    answer = path.ask(stream=True)
    path.begin_stream()
    delta = event(head(b"chat.completion.chunk", *answer) + DELTA)
    for data in (delta, delta * 3, delta[:100], delta[100:] + delta):
        before = path.client.bytes
        path.chunk(data)
        assert (path.client.bytes > before) == data.endswith(b"\n\n\r\n")


async def test_an_idle_connection_is_closed_when_its_time_is_over_and_not_while_it_is_used(path: HotPath) -> None:
    protocol, closed = path.protocol, asyncio.Event()
    protocol.timeout_keep_alive = 2
    path.client.close = closed.set  # type: ignore[method-assign]  # this wire remembers
    loop = asyncio.get_running_loop()
    used = loop.time()
    path.requests(1)
    for _ in range(5):
        await asyncio.sleep(0.5)  # together longer than the limit, each far from it
        if loop.time() - used > 1.99:  # … but for a process that stood still: then it was idle for so long
            closed.clear()
        used = loop.time()
        path.requests(1)
    answer = path.ask()
    await asyncio.sleep(2.2)
    assert not closed.is_set(), "a request is being answered"
    begun = loop.time()
    path.answer(*answer)
    await asyncio.wait_for(closed.wait(), PATIENCE)
    assert loop.time() - begun > 1.99


async def test_a_client_that_stops_reading_stops_the_engine_and_nobody_after_it(path: HotPath) -> None:
    calls: list[str] = []
    for name in ("pause_reading", "resume_reading"):
        setattr(path.engine, name, lambda name=name: calls.append(name))
    answer = path.ask(stream=True)
    path.begin_stream()
    delta = event(head(b"chat.completion.chunk", *answer) + DELTA)
    path.chunk(delta)
    assert calls == []
    path.protocol.pause_writing()  # what uvloop says when its buffer for the client is full
    path.chunk(delta)  # was on its way
    path.protocol.resume_writing()
    assert calls == ["pause_reading", "resume_reading"]
    path.protocol.pause_writing()
    path.chunk(event(b"[DONE]") + b"0\r\n\r\n")  # over while it is paused: the connection must be read again
    path.protocol.resume_writing()
    assert calls[2:] == ["pause_reading", "resume_reading"]
    path.requests(1)
    assert calls[4:] == [] and path.events.rows == 2
