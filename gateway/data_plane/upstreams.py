"""The engines as a worker sees them: pooled connections, requests in flight, ejection, choice of replica."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from gateway.data_plane.call import TIMEOUTS, Call, Timeouts
from gateway.data_plane.connection import Connection
from gateway.data_plane.sink import Failure, Sink

POOL_IDLE: Final = 4.0  # seconds; vLLM closes idle connections after 5 (VLLM_HTTP_TIMEOUT_KEEP_ALIVE)
MAX_POOLED: Final = 512  # idle connections kept per engine
MISSING_FOR: Final = 2.0  # seconds a replica that denied a version is passed over for it
SWEEP: Final = 0.25  # seconds between two looks at the deadlines
SILENCE: Final = 5.0  # seconds without a byte for anybody, after which an engine that keeps a request waiting is gone
SETTLE: Final = 0.02  # seconds between a broken connection and the look whether the engine still listens
LOOK: Final = 0.2  # seconds that look may take

logger = logging.getLogger("understudy.upstreams")


class Upstream:
    """One engine process: its pool and its health. Lives as long as the worker, across snapshots."""

    def __init__(self, name: str, url: str, api_key: str, timeouts: Timeouts) -> None:
        self.name = name
        self.url = url
        self.loop = asyncio.get_running_loop()
        self.timeouts = timeouts
        self.in_flight = 0
        self.ejected_until = 0.0
        self._failures = 0
        self._missing: dict[str, float] = {}
        self._heard = 0.0  # when an answer last began
        self._idle: list[Connection] = []
        self._calls: set[Call] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        parts = urlsplit(url)
        self._path = url.removeprefix("unix:") if parts.scheme == "unix" else ""
        self._host = parts.hostname or "localhost"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        host = parts.netloc.rpartition("@")[2] or "localhost"
        self._constant = b"host: " + host.encode() + b"\r\ncontent-type: application/json\r\n"
        self._prefix = parts.path.rstrip("/").encode() if parts.scheme != "unix" else b""
        self._heads: dict[bytes, bytes] = {}  # path → how every request to it begins
        if api_key:
            self._constant += b"authorization: Bearer " + api_key.encode() + b"\r\n"

    # -- exchanges ----------------------------------------------------------------------------------------------

    def call(self, path: bytes, headers: bytes, body: bytes, sink: Sink, blames: bool = True) -> Call:
        """POST `body`. `headers` are complete lines. The sink is never called before this returns.

        `blames`: a connection that breaks speaks against the engine; not so for a version that may break them itself.
        """
        head = self._heads.get(path) or self._head(path)
        request = b"%b%bcontent-length: %d\r\n\r\n%b" % (head, headers, len(body), body)
        now = self.loop.time()
        call = Call(self, request, sink, now, blames)
        self.in_flight += 1
        self._calls.add(call)
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport is None or connection.transport.is_closing():
                continue
            if now - connection.idle_since > POOL_IDLE:
                connection.close()
                continue
            call.attach(connection)
            return call
        self.connect(call)
        return call

    def _head(self, path: bytes) -> bytes:
        """`path` is one of ours, never a client's: few are kept."""
        return self._heads.setdefault(path, b"POST %b%b HTTP/1.1\r\n%b" % (self._prefix, path, self._constant))

    def connect(self, call: Call) -> None:
        """Open a new connection for a call."""
        task = self.loop.create_task(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, call: Call) -> None:
        try:
            async with asyncio.timeout(self.timeouts.connect):
                connection = await self._open()
        except (OSError, TimeoutError, ValueError) as error:  # SSLError is an OSError; bad names: ValueError
            if self.loop.time() >= self.ejected_until:  # once for all that fail together
                reason = getattr(error, "verify_message", "") or str(error) or "it does not answer"
                where = self._path or f"{self._host}:{self._port}"
                logger.warning("engine %s cannot be reached at %s: %s", self.name, where, reason)
            call.on_failure(Failure.CONNECT)
            return
        if call.live:
            call.attach(connection)
        else:
            connection.close()

    async def _open(self) -> Connection:
        def factory() -> Connection:
            return Connection(self._release, self._forget)

        if self._path:
            _, connection = await self.loop.create_unix_connection(factory, self._path)
        else:
            _, connection = await self.loop.create_connection(factory, self._host, self._port, ssl=self._tls)
        return connection

    def _release(self, connection: Connection, reusable: bool) -> None:
        if not reusable or len(self._idle) >= MAX_POOLED:
            connection.close()
            return
        if connection.paused and connection.transport is not None:
            connection.paused = False
            connection.transport.resume_reading()
        connection.idle_since = self.loop.time()
        self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def done(self, call: Call) -> None:
        """A call ended, one way or another."""
        self.in_flight -= 1
        self._calls.discard(call)

    def sweep(self, now: float) -> None:
        """End what is overdue; close connections before the engine does."""
        for call in list(self._calls):
            failure = call.overdue(now, self.timeouts)
            if failure is not None:
                call.expire(failure)
        keep = [c for c in self._idle if now - c.idle_since <= POOL_IDLE]
        stale = [c for c in self._idle if now - c.idle_since > POOL_IDLE]
        self._idle = keep
        for connection in stale:
            connection.close()

    def close(self) -> None:
        """End everything."""
        for task in list(self._connecting):
            task.cancel()
        for call in list(self._calls):
            call.cancel()
        for connection in self._idle:
            connection.close()
        self._idle = []

    # -- health -------------------------------------------------------------------------------------------------

    def failed(self) -> None:
        """It did not answer: pass it over for a while that doubles, up to ten seconds."""
        now = self.loop.time()
        if now >= self.ejected_until:  # requests that fail together are one failure
            self._failures = min(self._failures + 1, 6)
            self.ejected_until = now + 0.1 * 2**self._failures

    def check(self, failure: Failure, then: Callable[[bool], None]) -> None:
        """Tell `then`, soon or at once, whether the engine as a whole is gone, not this one exchange broken off.

        After a broken connection: does it still listen? After a silence: did it answer anybody meanwhile?
        """
        if failure in TIMEOUTS:
            heard = max((call.last for call in self._calls if call.headed), default=0.0)
            then(self.loop.time() - max(heard, self._heard) > SILENCE)
        else:
            task = self.loop.create_task(self._look(then))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _look(self, then: Callable[[bool], None]) -> None:
        await asyncio.sleep(SETTLE)
        try:
            async with asyncio.timeout(LOOK):
                (await self._open()).close()
        except (OSError, TimeoutError, ValueError):
            then(True)
        else:
            then(False)

    def succeeded(self) -> float:
        """It answered: back in. Returns the loop's time."""
        now = self._heard = self.loop.time()
        self._failures = 0
        self.ejected_until = 0.0
        return now

    def denied(self, version: str) -> None:
        """It says it does not hold this version."""
        self._missing[version] = self.loop.time() + MISSING_FOR

    def usable(self, version: str, now: float) -> bool:
        """May a request for this version be sent here now?"""
        return now >= self.ejected_until and now >= self._missing.get(version, 0.0)


def choose(upstreams: Iterable[Upstream], version: str, now: float, tried: Iterable[Upstream] = ()) -> Upstream | None:
    """Among the usable ones, one with the fewest requests in flight; ties are drawn."""
    best: list[Upstream] = []
    for upstream in upstreams:
        if upstream in tried or not upstream.usable(version, now):
            continue
        if not best or upstream.in_flight < best[0].in_flight:
            best = [upstream]
        elif upstream.in_flight == best[0].in_flight:
            best.append(upstream)
    if len(best) > 1:
        return random.choice(best)
    return best[0] if best else None
