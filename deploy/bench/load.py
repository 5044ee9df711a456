"""Closed-loop load on one HTTP endpoint: `python -m deploy.bench.load '{"url": …}'` prints what it measured as JSON.

Every connection sends its next request when the last one is answered. What arrives inside the window (after a warm-up,
for `seconds`) counts, and so does the CPU time used inside it; requests in flight at its end are only finished.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

from deploy.bench import cpu

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that answers briefly."},
    {"role": "user", "content": "What is 12 plus 34? Show the steps, then give the final answer on its own line."},
]


@dataclass
class Work:
    """What to send."""

    url: str
    connections: int = 64
    seconds: float = 2.0
    warm_up: float = 0.5
    stream: bool = False
    model: str = "base"
    key: str = ""
    pid: int = 0  # of the relay, whose process tree's CPU time is measured; 0: none
    core: int | None = None  # the relay's
    ramp: float = 0.0  # seconds over which the connections are opened

    def request(self, number: int) -> bytes:
        """The bytes of connection `number`'s requests: each connection is one user."""
        body: dict[str, Any] = {"model": self.model, "messages": MESSAGES, "max_tokens": 64, "temperature": 0.7}
        body |= {"user": f"user-{number}"}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body, separators=(",", ":")).encode()
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


@dataclass
class Measured:
    """What happened inside the window. Times in seconds."""

    latencies: list[float] = field(default_factory=list)  # request sent → answer complete
    first: list[float] = field(default_factory=list)  # request sent → first event
    gaps: list[float] = field(default_factory=list)  # between arrivals of events
    events: int = 0  # server-sent ones
    errors: dict[str, int] = field(default_factory=dict)

    def error(self, what: str) -> None:
        """Count one failed request."""
        self.errors[what] = self.errors.get(what, 0) + 1


class Client(asyncio.Protocol):
    """One connection that repeats one request."""

    def __init__(self, request: bytes, stream: bool) -> None:
        self.request, self.stream = request, stream
        self.measured = Measured()  # replaced when the window opens
        self.closing = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        """Begin."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the request again, or leave."""
        if self.closing:
            self.finish()
            return
        self.parser = httptools.HttpResponseParser(self)
        self.events, self.last_byte, self.tail, self.last_event = 0, b"", b"", 0.0
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def finish(self) -> None:
        """Leave; the window may be waiting for it."""
        self.transport.close()
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.measured.error(f"not HTTP: {error}")
            self.finish()

    def on_body(self, body: bytes) -> None:
        """Count the events that end in this piece; a blank line may be cut in two."""
        self.tail = (self.tail + body)[-64:]
        if not self.stream:
            return
        count = body.count(b"\n\n") + (self.last_byte == b"\n" and body[:1] == b"\n")
        self.last_byte = body[-1:]
        if not count:
            return
        now = time.perf_counter()
        if self.events:
            self.measured.gaps.append(now - self.last_event)
        else:
            self.measured.first.append(now - self.started)
        self.events += count
        self.measured.events += count
        self.last_event = now

    def on_message_complete(self) -> None:
        """Check the answer, then go on."""
        now = time.perf_counter()
        status = self.parser.get_status_code()
        if status != 200:
            self.measured.error(f"status {status}: {self.tail.decode(errors='replace')[-60:]}")
        elif not self.tail.rstrip().endswith(b"data: [DONE]" if self.stream else b"}"):
            self.measured.error("incomplete answer")
        else:
            self.measured.latencies.append(now - self.started)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Only we may close."""
        if not self.closing:
            self.measured.error(f"connection lost: {exc}")
        if not self.done.done():
            self.done.set_result(None)


def percentile(values: list[float], share: float) -> float | None:
    """The value below which `share` of the values lie; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


async def connect(work: Work, number: int) -> Client:
    """Open one connection and start on it."""
    target, request = urlsplit(work.url), work.request(number)
    loop = asyncio.get_running_loop()
    assert target.hostname and target.port
    _, client = await loop.create_connection(lambda: Client(request, work.stream), target.hostname, target.port)
    return client


async def run(work: Work) -> dict[str, Any]:
    """Open the connections, warm up, measure, and sum up."""
    clients = []
    for number in range(work.connections):
        clients.append(await connect(work, number))
        if work.ramp:
            await asyncio.sleep(work.ramp / work.connections)
    await asyncio.sleep(work.warm_up)
    measured, after = Measured(), Measured()
    started, cpu_before, busy_before = _clocks(work)
    for client in clients:
        client.measured = measured
    await asyncio.sleep(work.seconds)
    now, cpu_after, busy_after = _clocks(work)
    for client in clients:
        client.measured, client.closing = after, True
    await asyncio.wait([client.done for client in clients], timeout=10.0)
    for _ in range(sum(not client.done.done() for client in clients)):
        after.error("no answer within 10 s")
    measured.errors |= after.errors
    return summary(measured, now - started, cpu_after - cpu_before, busy_after - busy_before)


def _clocks(work: Work) -> tuple[float, float, float]:
    busy = cpu.core_busy(work.core) if work.core is not None else 0.0
    return time.perf_counter(), cpu.seconds(work.pid) if work.pid else 0.0, busy


def summary(measured: Measured, seconds: float, cpu_seconds: float, busy: float) -> dict[str, Any]:
    """Numbers only; times in seconds."""
    requests = len(measured.latencies)
    result: dict[str, Any] = {
        "requests": requests,
        "seconds": seconds,
        "per_second": requests / seconds,
        "cpu_per_request": cpu_seconds / requests if requests else None,
        "cpu_share": cpu_seconds / seconds,
        "others_share": max(0.0, busy - cpu_seconds) / seconds,
        "events": measured.events,
        "cpu_per_event": cpu_seconds / measured.events if measured.events else None,
        "errors": measured.errors,
    }
    for name, values in (("latency", measured.latencies), ("first", measured.first), ("gap", measured.gaps)):
        result |= {f"{name}_p50": percentile(values, 0.5), f"{name}_p99": percentile(values, 0.99)}
    return result


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Work(**json.loads(sys.argv[1]))))))
