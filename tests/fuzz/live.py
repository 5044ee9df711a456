"""Fuzzers of a running gateway: wrong requests from real clients, wrong answers from a real engine.

What must hold whatever is sent: nobody reads a byte of somebody else's, no 500, no hang, the worker lives, and at the
end nothing is in flight, no descriptor is left open and no memory has been kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.fuzz.mutate import Mutator
from tests.support.raw_http import ask, engine, post, resident, unharmed, wire, workers_of
from tests.support.serving import SSE_HEAD, Asked, Gateway, completion, event, http_chunk, json_answer, routed, serving

AT_ONCE = 16
GROWTH = 40_000_000  # bytes a worker may grow by: caches and arenas, not one request's worth times thousands
CONFIG = '[gateway]\nfirst_byte_timeout = "500ms"\nidle_timeout = "500ms"\n'
STATUSES = {b"100", *(b"%d" % code for code in (200, 202, 400, 401, 403, 404, 405, 408, 409, 413, 422, 431, 502, 503, 504))}
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_SECRET = re.compile(rb"secret-\d+-")

_BODY = ask(user="@S@", messages=[{"role": "user", "content": "@S@"}])
REQUESTS = [
    post(_BODY), post(ask(stream=True, user="@S@"), b"x-request-id: @S@", b"x-understudy-unit: u"), post(_BODY) + post(_BODY),
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(http_chunk(_BODY[i : i + 20]) for i in range(0, len(_BODY), 20)) + b"0\r\ntrailer: x\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" + post(_BODY, b"connection: close"),
    b"HEAD /readyz HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/models/support HTTP/1.0\r\n\r\n",
    post(b'{"response_id":"@S@","score":1,"kind":"thumb"}', path="/v1/feedback"),
    post(_BODY, b"expect: 100-continue", b"connection: upgrade", b"upgrade: h2c", path="/v1/responses"),
    post(b'{"model":"base","prompt":"@S@","stream":true}', b"authorization: Bearer us-x", path="/v1/completions?a=b"),
]  # fmt: skip
REQUEST_WORDS = [
    b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n", b"content-length: 99999\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"HTTP/1.0", b"POST ", b"GET / HTTP/1.1\r\n\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n", b"5;x=y\r\n",
    b"ffffffffffffffff\r\n", b"x: " + b"y" * 70_000, b'"model":"auto",', b'"stream":true,',
]  # fmt: skip


class Limits:
    """How much to do, and what was done."""

    def __init__(self, most: int, seconds: float) -> None:
        self._numbers = itertools.count()
        self._most = most
        self._end = time.monotonic() + seconds
        self.done = 0

    def next(self) -> int | None:
        """The next input's number; None when it is enough."""
        number = next(self._numbers)
        if number >= self._most or time.monotonic() > self._end:
            return None
        self.done += 1
        return number


def check_received(data: bytes, number: int, sent: object) -> None:
    """What one client may have received."""
    assert set(_SECRET.findall(data)) <= {b"secret-%d-" % number}, (sent, data)


async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """An engine that repeats who asked."""
    said = str(asked.json.get("user", ""))
    if asked.json.get("stream") is True:
        writer.write(SSE_HEAD + event(asked, said) + http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))
    else:
        writer.write(json_answer(completion(asked, text=said)))


async def clients(gateway: Gateway, seed: int, limits: Limits) -> None:
    """Mutated requests, in any packets; some clients leave at once, some wait, some close their half."""
    mutator = Mutator(seed, REQUESTS, REQUEST_WORDS)

    async def client() -> None:
        while (number := limits.next()) is not None:
            data = mutator.make().replace(b"@S@", b"secret-%d-" % number)
            packets, patience = mutator.cut(data, 4), mutator.random.choice((0.0, 0.05, 0.3))
            received = b""
            async with wire(gateway) as connection:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await connection.trickle(*packets, gap=0.001)
                    async with asyncio.timeout(patience):
                        while piece := await connection.reader.read(1 << 20):
                            received += piece
            assert set(_STATUS.findall(received)) <= STATUSES, (packets, received)
            check_received(received, number, packets)

    async with engine(echo) as (url, _, _):
        await routed(gateway, {"e0": url})
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        await still_answers(gateway)


ANSWERS = [
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 54\r\n\r\n{"model":@M@,"choices":[{"message":{"content":"@S@"}}]}',
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\n\"@S@\"\r\n0\r\nx: y\r\n\r\n",
    SSE_HEAD + b"".join(http_chunk(b'data: {"model":@M@,"choices":[{"index":0,"delta":{"content":"@S@"}}]}\n\n') for _ in range(3))
    + http_chunk(b'data: {"model":@M@,"choices":[],"usage":{"prompt_tokens":1}}\n\n') + http_chunk(b"data: [DONE]\n\n") + http_chunk(b""),
    b'HTTP/1.1 400 Bad\r\ncontent-length: 27\r\n\r\n{"error":{"message":"@S@"}}', b"HTTP/1.1 200 OK\r\n\r\n{\"until\":\"close @S@\"}",
    b'HTTP/1.1 404 Not Found\r\ncontent-length: 56\r\n\r\n{"error":{"message":"The model @M@ does not exist. @S@"}}',
    b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}",
]  # fmt: skip
ANSWER_WORDS = [
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n",
    b"0\r\n\r\n", b"data: [DONE]\n\n", b'data: {"error":{"message":"x"}}\n\n', b"event: error\n", b"content-encoding: gzip\r\n",
    b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b"HTTP/1.0 200 OK\r\n", b"7fffffffffffffff\r\n", b": x\r\n\r\n",
]  # fmt: skip


async def engines(gateway: Gateway, seed: int, limits: Limits) -> None:
    """Mutated answers, whole or in packets; the engine hangs up after some. Every client gets its answer or an error."""
    mutator = Mutator(seed, ANSWERS, ANSWER_WORDS)

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "plain" in asked.json:
            await echo(asked, writer)
            return
        data, whole = mutator.make(4).replace(b"@M@", json.dumps(asked.json["model"]).encode()), mutator.random.random() < 0.7
        # What comes after a complete answer in a packet of its own cannot be told from the answer to the next request.
        data = data.replace(b"@S@", asked.json["user"].encode() if whole else b"packets")
        for packet in [data] if whole else mutator.cut(data, 4):
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.001)
        if mutator.random.random() < 0.5:
            raise ConnectionError

    async def client() -> None:
        while (number := limits.next()) is not None:
            async with wire(gateway) as connection:
                body = ask(user=f"secret-{number}-", stream=number % 2 == 0)
                connection.send(post(body, b"connection: close"))
                received = await connection.rest()  # or it hangs, and that is an error
            found = _STATUS.match(received)
            assert found is not None and found[1] in STATUSES, received
            check_received(received, number, f"answer {number}")

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        await still_answers(gateway)


async def still_answers(gateway: Gateway) -> None:
    """A plain request, after everything; an engine that broke its connections is passed over for some seconds."""
    for _ in range(600):
        async with wire(gateway) as connection:
            connection.send(post(ask(user="plain", plain=1)))
            answer = await connection.answer()
            if answer.status == 200:
                assert answer.json["choices"][0]["message"]["content"] == "plain"
                return
            await asyncio.sleep(0.1)
    raise AssertionError(answer)


OPENED = 3  # files of the connection over which records are written, which is opened with the first, and one more
LIVE: dict[str, Callable[[Gateway, int, Limits], Awaitable[None]]] = {"clients": clients, "engines": engines}


def descriptors(gateway: Gateway) -> int:
    """Open files of all workers."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers_of(gateway))


async def fuzz(gateway: Gateway, name: str, seed: int, limits: Limits) -> None:
    """One live target against a running gateway, with what must hold afterwards."""
    with unharmed(gateway):
        before, open_before = resident(gateway), descriptors(gateway)
        await LIVE[name](gateway, seed, limits)
        for _ in range(600):  # idle connections to the engine are closed after some seconds
            if descriptors(gateway) <= open_before + OPENED and gateway.metric("understudy_requests_in_flight") == 0:
                break
            await asyncio.sleep(0.1)
        assert descriptors(gateway) <= open_before + OPENED, f"{descriptors(gateway) - open_before} descriptors are left open"
    assert resident(gateway) - before < GROWTH, f"grown by {(resident(gateway) - before) / 1e6:.0f} MB"


def run_live(name: str, seed: int, most: int = sys.maxsize, seconds: float = float("inf")) -> int:
    """Start a gateway, run one target against it; how many inputs there were."""
    limits = Limits(most, seconds)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), config=CONFIG) as gateway:
        gateway.publish({})
        gateway.start()
        asyncio.run(fuzz(gateway, name, seed, limits))
    return limits.done
