"""The hot path without sockets (deploy.bench.hot_path): what no test over a socket can see."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from deploy.bench.hot_path import HotPath, hot_path
from deploy.bench.upstream import DELTA, event, head
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


async def test_requests_leave_no_garbage_to_collect(path: HotPath) -> None:
    """A cycle of references for each request would have the collector run all the time.

    The collector sees the whole process, so what tests before this one left behind (threads on their way out,
    finalizers that free the next thing) can be found too, for a while: a cycle of the hot path is found every time.
    """
    for work in (path.requests, path.streams):
        work(5)
        found = [_garbage(lambda work=work: work(20)) for _ in range(5)]
        assert min(found) == 0, (work, found)


def test_a_cycle_is_found_every_time() -> None:
    """What the test above relies on."""

    def cycles() -> None:
        for _ in range(20):
            cycle: list[object] = []
            cycle.append(cycle)

    assert min(_garbage(cycles) for _ in range(5)) >= 20


def _garbage(work: Callable[[], object]) -> int:
    """How many unreachable objects the collector finds after `work`."""
    gc.collect()
    gc.disable()
    try:
        work()
        return gc.collect()
    finally:
        gc.enable()


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
    path.requests(1)
    for _ in range(5):
        await asyncio.sleep(0.5)  # together longer than the limit, each far from it
        path.requests(1)
    answer = path.ask()
    await asyncio.sleep(2.2)
    assert not closed.is_set(), "a request is being answered"
    begun = asyncio.get_running_loop().time()
    path.answer(*answer)
    await asyncio.wait_for(closed.wait(), PATIENCE)
    assert asyncio.get_running_loop().time() - begun > 1.99


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
