"""How long clients may take: the protocol class in this process, with shorter deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.data_plane import intake
from gateway.data_plane.hot_protocol import hot_protocol
from tests.support.raw_http import wire
from tests.support.waiting import PATIENCE


@contextlib.asynccontextmanager
async def hurried(seconds: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server whose clients have `seconds` for a request, and a second between two."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/echo":
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in range(5 if scope["path"] == "/slow" else 0):
            # In the end, when what waits behind it will be read again, this process may take its time.
            monkeypatch.setattr(intake, "BODY_TIMEOUT", seconds if part < 4 else PATIENCE)
            await asyncio.sleep(seconds)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(intake, "BODY_TIMEOUT", seconds)
    monkeypatch.setattr(intake, "LINGER", 0.01)
    config = uvicorn.Config(app, ws="none", lifespan="off", timeout_keep_alive=1)
    config.load()
    worker: Any = SimpleNamespace(settings=SimpleNamespace(gateway=SimpleNamespace(max_body_bytes=1 << 20)))
    make = partial(hot_protocol(worker), config, ServerState(), {}, asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_whoever_sends_too_slowly_is_told_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hurried(0.5, monkeypatch) as port:
        for start, trickle, said in (
            (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n", b"HTTP/1.1 408 "),  # a head without an end
            (b"POST /echo HTTP/1.1\r\ncontent-length: 9999\r\n\r\n", b"x", b"HTTP/1.1 408 "),
            (b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"HTTP/1.1 408 "),
            (b"POST / HTTP/1.1\r\ncontent-length: 9999\r\n\r\n", b"x", b"HTTP/1.1 200 "),  # answered without it
            (b"", b"", b""),  # never a word
        ):
            async with wire(port) as connection:
                connection.send(start)
                reading = asyncio.create_task(connection.rest())
                began = time.monotonic()
                while not reading.done() and time.monotonic() - began < PATIENCE:
                    if trickle:
                        connection.send(trickle)
                    await asyncio.sleep(0.05)
                answer = await reading
                assert answer.startswith(said) and answer.count(b"HTTP/1.1 ") == (1 if said else 0), (start, answer)
                if b" 408 " in said:
                    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "request_timeout"


async def test_an_answer_may_take_longer_than_any_deadline_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request in the pipeline, or a whole one before it in the same packet, does not end it."""
    slow, half = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /echo HTTP/1.1\r\ncontent-length: 5\r\n\r\n12"
    async with hurried(0.4, monkeypatch) as port:
        async with wire(port) as connection:
            connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + slow + half)
            assert (await connection.answer()).body == b""
            assert (await connection.answer()).body == b"xxxxx"
            connection.send(b"345")
            assert (await connection.answer()).status == 200
        async with wire(port) as connection:
            connection.send(slow)
            await asyncio.sleep(0.5)
            connection.send(half)
            assert (await connection.answer()).body == b"xxxxx"
