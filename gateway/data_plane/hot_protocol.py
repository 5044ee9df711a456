"""The hot paths without ASGI: a uvicorn HTTP protocol that is itself the Downstream of the relay.

uvicorn keeps what it is good at: workers, sockets, TLS, keep-alive, shutdown, and every request that is not a POST to
an inference endpoint, which goes to the ASGI application as ever. What this saves is a task, two events and an awaited
`send` per chunk: see docs/benchmarks.md. Pipelined requests take the ASGI way too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.data_plane.endpoints import ENDPOINTS, Endpoint
from gateway.data_plane.intake import STATUS_LINES, Intake
from gateway.data_plane.push import Headers, Producer
from gateway.data_plane.worker import Worker
from gateway.errors import body_too_large

_CLOSE: Final = (b"connection", b"close")
_PATHS: Final = {path.encode(): endpoint for path, endpoint in ENDPOINTS.items()}


class HotCycle:
    """One inference request on one connection. Has the attributes that uvicorn's protocol expects of a cycle."""

    __slots__ = (
        "_chunked", "_head", "_protocol", "body", "disconnected", "endpoint", "headers", "http_1_0", "keep_alive",
        "message_event", "more_body", "producer", "response_complete", "size",
    )  # fmt: skip
    response_started = False  # nothing is answered before the request is complete

    def __init__(
        self, protocol: HotProtocol, endpoint: Endpoint, headers: Headers, keep_alive: bool, http_1_0: bool
    ) -> None:
        self._protocol = protocol
        self.headers = headers
        self._chunked = False
        self._head = b""
        self.endpoint = endpoint
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.producer: Producer | None = None
        self.body: list[bytes] = []
        self.size = 0
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS

    # -- Downstream ---------------------------------------------------------------------------------------------

    def start(self, status: int, headers: Headers) -> None:
        """See Downstream."""
        if self.disconnected:
            return
        always = self._protocol.server_state.default_headers
        if always or (status != 200 and _CLOSE in headers):  # `always`: once the worker is about to leave
            headers = [*headers, *always]
            self.keep_alive = self.keep_alive and _CLOSE not in headers
            headers = [header for header in headers if header != _CLOSE]
        lines = b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers])
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        first = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        if (b"\n" + lines).find(b"\ncontent-length: ") >= 0:
            self._head = b"%b%b%b" % (first, lines, end)  # goes with the body: one system call
            return
        if self.http_1_0:
            self.keep_alive = False  # the end of the body is the end of the connection
            end = b"connection: close\r\n\r\n"
        else:
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n" + end
        self._protocol.put(b"%b%b%b" % (first, lines, end))  # at once: the stream was accepted

    def write(self, data: bytes) -> None:
        """See Downstream."""
        if not data or self.disconnected:
            return
        if self._chunked:
            self._protocol.put(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            head, self._head = self._head, b""
            self._protocol.put(head + data)

    def chunks(self) -> Callable[[bytes], None] | None:
        """See Downstream. As they are, without a step in between: after a disconnection the relay sends none."""
        return self._protocol.put if self._chunked else None

    def finish(self) -> None:
        """See Downstream."""
        self.producer = None
        if self.response_complete or self.disconnected:
            return
        self._flush_head()
        if self._chunked:
            self._protocol.put(b"0\r\n\r\n")
        self.response_complete = True
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._protocol.put(head)

    # -- for the protocol -----------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The client is gone."""
        self.disconnected = True
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.disconnected()


class _NobodyWaits:
    """Stands in for the asyncio.Event that uvicorn sets to wake an ASGI application."""

    def set(self) -> None:
        """There is none to wake."""


_NOBODY_WAITS: Final = _NobodyWaits()


class HotProtocol(Intake):
    """One client connection. uvicorn makes them with `hot_protocol(worker)`."""

    def __init__(self, worker: Worker, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker = worker
        self.put: Callable[[bytes], None] = _nowhere  # transport.write, found once
        self._limit = self.worker.settings.gateway.max_body_bytes
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    # -- what comes in --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Remember how to write."""
        super().connection_made(transport)
        self.put = transport.write

    def begin(self, headers: Headers, version: str) -> None:
        """Take the request, or leave it to uvicorn."""
        endpoint = _PATHS.get(self.url)
        before = self.cycle
        busy = before is not None and not before.response_complete
        if before is not None and not busy and not before.keep_alive:
            return  # the connection ends: what its client sent after that is nobody's
        if endpoint is None or busy or self.parser.get_method() != b"POST":
            self.to_asgi(headers)
            return
        old = version == "1.0"
        cycle = HotCycle(self, endpoint, headers, not old and self.parser.should_keep_alive(), old)
        self.cycle = self.answering = cast(RequestResponseCycle, cycle)
        if self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect, up to the limit."""
        if self._surplus:
            self.earned(len(body))
        cycle: object = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_body(body)
        elif cycle.more_body and not cycle.disconnected:
            cycle.size += len(body)
            cycle.body.append(body)
            if cycle.size > self._limit:
                cycle.body = []
                self.reject(body_too_large(self._limit))

    def complete(self) -> None:
        """The request is whole: answer it."""
        cycle: object = self.cycle
        if not isinstance(cycle, HotCycle):
            HttpToolsProtocol.on_message_complete(self)
        elif cycle.more_body and not cycle.disconnected:
            cycle.more_body = False
            body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
            cycle.body = []
            self.worker.handler.handle(cycle.endpoint, cycle.headers, body, time.monotonic(), cycle)

    # -- what goes out --------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """As uvicorn's, but with a timer that runs on from answer to answer: one for each costs 5 % of a request."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_if_idle)

    def _look_if_idle(self) -> None:
        """Close a connection that nobody has used for the time; one that is in use starts the timer anew."""
        self._idle_timer = None
        cycle = self.answering
        if self._stage or (cycle is not None and not cycle.response_complete):
            return  # the end of its answer starts the timer anew
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.001:
            self._idle_timer = self.loop.call_later(left, self._look_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the relay."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        cycle: object = self.answering
        if isinstance(cycle, HotCycle) and not cycle.response_complete:
            cycle.leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client's socket is full: the engine waits."""
        super().pause_writing()
        cycle: object = self.answering
        if isinstance(cycle, HotCycle) and cycle.producer is not None:
            cycle.producer.pause()

    def resume_writing(self) -> None:
        """The client caught up."""
        super().resume_writing()
        cycle: object = self.answering
        if isinstance(cycle, HotCycle) and cycle.producer is not None:
            cycle.producer.resume()


def _nowhere(_data: bytes) -> None:
    """There is no connection yet."""


def hot_protocol(worker: Worker) -> Callable[..., HotProtocol]:
    """What uvicorn calls for each connection, bound to a worker."""
    return partial(HotProtocol, worker)
