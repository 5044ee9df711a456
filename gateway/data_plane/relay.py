"""One request's way through an engine: choose a replica, send, relay what comes back, account for it.

A Relay is the sink of the engine's answer and the producer of the client's. Nothing in it awaits. Before the first
byte has left for the client a failed replica is replaced by another; after it, a failure is said in the stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from adapters.types import Flag
from gateway.data_plane.call import TIMEOUTS, Call, as_error
from gateway.data_plane.envelope import meaning, render, sse_error
from gateway.data_plane.exchange import OK, Exchange, Finished
from gateway.data_plane.framing import unframed
from gateway.data_plane.held import Held
from gateway.data_plane.protocol import rewrite
from gateway.data_plane.push import Downstream, Headers
from gateway.data_plane.sink import Failure
from gateway.data_plane.sse import StreamEditor, Usage, is_written, read_usage, restamp
from gateway.data_plane.upstreams import Upstream, choose
from gateway.errors import ApiError, no_replica
from monitors.conventions import Outcome

logger = logging.getLogger("understudy.relay")


class Relay:
    """See the module's docstring. `finished` is called exactly once; `failover` whenever a replica is replaced."""

    __slots__ = (
        "_call", "_down", "_editor", "_error_status", "_exchange", "_failover", "_finished", "_flags",
        "_held", "_kept", "_over", "_put_chunk", "_sent", "_started", "_status", "_suspect", "_tried", "_ttft",
        "_upstream",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, downstream: Downstream, finished: Callable[[Finished], None],
        failover: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._down = downstream
        self._finished = finished
        self._failover = failover
        self._put_chunk: Callable[[bytes], None] | None = None  # see Downstream.chunks
        self._call: Call | None = None
        self._upstream: Upstream | None = None
        self._tried: list[Upstream] = []
        self._editor: StreamEditor | None = None
        self._held = Held()
        self._kept = exchange.selected != 0
        self._flags = exchange.flags
        self._status = self._error_status = 0
        self._suspect: Failure | None = None
        self._started = self._over = False
        self._sent = 0.0
        self._ttft: float | None = None

    def begin(self) -> None:
        """Send to the best replica. Raises ApiError when there is none."""
        exchange, target = self._exchange, self._exchange.target
        upstream = choose(target.upstreams, target.version, time.monotonic(), self._tried)
        if upstream is None:
            raise no_replica(exchange.request.model)
        body = rewrite(exchange.request, target.model, exchange.response_id)
        headers = b"x-request-id: %b\r\n%b" % (exchange.response_id.encode(), exchange.trace)
        self._upstream, self._down.producer = upstream, self
        self._call = upstream.call(exchange.request.endpoint.path.encode(), headers, body, self, target.blames)
        self._sent = time.monotonic()

    # -- Sink: the engine's side --------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        """Decide how the body is treated; a stream's head goes out at once."""
        if status != 200:
            self._error_status = status
            return
        self._status = 200
        if not dict(headers).get(b"content-type", b"").startswith(b"text/event-stream"):
            return
        of, request = self._exchange, self._exchange.request
        self._editor = StreamEditor(request.endpoint, of.target.stamped, of.public, request.add_usage)
        self._start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")])
        self._put_chunk = self._down.chunks()

    def on_data(self, data: bytes) -> None:
        """Relay a stream; hold anything else until it is whole."""
        editor = self._editor
        if editor is None:
            if not self._held.hold(data):
                self._refuse()
            return
        try:
            out = editor.feed(data)
        except ValueError:
            self._refuse()
            return
        if self._ttft is None and editor.content:
            self._ttft = time.monotonic() - self._exchange.received
        self._down.write(out)
        if self._kept:
            self._held.keep(out)
        if editor.error is not None:
            self._stream_failed(self._exchange.translate(500, editor.error))

    def on_chunk(self, data: bytes, at: int) -> None:
        """One more delta of a stream as it is framed, or what on_data takes."""
        editor, put = self._editor, self._put_chunk
        out = b"" if editor is None or put is None else editor.delta(data, at)
        if not out or put is None:
            self.on_data(data[at:-2])
            return
        put(out)
        if self._kept:
            self._held.keep(unframed(out))

    def on_end(self) -> None:
        """The engine's answer is complete."""
        if self._over:
            return
        if self._editor is not None:
            self._end_stream(self._editor)
        elif self._error_status:
            self._end_error(self._held.whole())
        else:
            self._end_json(self._held.whole())

    def on_failure(self, failure: Failure) -> None:
        """Another replica while nothing has been sent; otherwise say so where the client will see it."""
        if self._over:
            return
        if self._started:
            self._suspect = failure
            self._stream_failed(as_error(failure), Outcome.TRUNCATED)
        elif failure in TIMEOUTS or not self._again():
            self._suspect = failure
            self._answer(as_error(failure))

    # -- Producer: the client's side ----------------------------------------------------------------------------

    def disconnected(self) -> None:
        """The client went away: the engine must not go on for nobody."""
        if not self._over:
            self._cancel()
            self._done(self._status or 499, Outcome.CANCELLED, self._usage())

    def pause(self) -> None:
        """Stop reading from the engine."""
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        """Read on."""
        if self._call is not None:
            self._call.resume()

    # -- endings ------------------------------------------------------------------------------------------------

    def _end_stream(self, editor: StreamEditor) -> None:
        self._down.write(editor.flush())
        if editor.error is not None:
            self._stream_failed(self._exchange.translate(500, editor.error))
        elif not editor.done:
            self.on_failure(Failure.TRUNCATED)
        else:
            if not editor.content:
                self._flags |= Flag.EMPTY
            self._down.finish()
            self._done(200, OK, self._usage())

    def _end_json(self, body: bytes) -> None:
        body = restamp(body, self._exchange.target.stamped, self._exchange.public)
        self._start(200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
        self._down.write(body)
        self._down.finish()
        if self._exchange.request.endpoint.streams and not is_written(body):
            self._flags |= Flag.EMPTY
        self._held.put(body)
        self._done(200, OK, read_usage(body))

    def _end_error(self, body: bytes) -> None:
        """A refusal, in the client's terms. A replica that lost the adapter, or is shutting down, is replaced."""
        target, request = self._exchange.target, self._exchange.request
        lost = self._error_status == 404 and target.model.strip(b'"') in body and b"does not exist" in body
        if lost and self._upstream is not None:
            self._upstream.denied(target.version)
        if not lost and self._error_status != 503:
            self._answer(self._exchange.translate(self._error_status, body))
        elif not self._again():
            self._answer(no_replica(request.model))

    def _again(self) -> bool:
        """Try another replica. False when there is none."""
        if self._upstream is not None:
            self._tried.append(self._upstream)
        self._held.put(b"")
        self._error_status = self._status = 0
        failed = self._tried[-1].name if self._tried else ""
        try:
            self.begin()
        except ApiError:
            return False
        self._failover(failed)
        return True

    def _answer(self, error: ApiError) -> None:
        """A whole error answer."""
        status, headers, body = render(error)
        self._start(status, headers)
        self._down.write(body)
        self._down.finish()
        self._flags |= meaning(error)
        self._done(status, Outcome.ERROR, Usage())

    def _stream_failed(self, error: ApiError, outcome: Outcome = Outcome.ERROR) -> None:
        """An error event and a clean end of the body; no end marker."""
        self._cancel()
        self._down.write(sse_error(error, self._exchange.request.endpoint.name))
        self._down.finish()
        self._flags |= meaning(error)
        logger.warning("stream failed: %s", error.detail or error, extra={"response_id": self._exchange.response_id})
        self._done(200, outcome, self._usage())

    def _done(self, status: int, outcome: Outcome, usage: Usage) -> None:
        self._over = True
        exchange, now = self._exchange, time.monotonic()
        overhead, duration = (self._sent or now) - exchange.received, now - exchange.received
        answer = self._held.whole() if self._kept and outcome is OK else b""
        done = Finished(exchange, status, outcome, duration, self._ttft, overhead, usage)
        done.flags, done.upstream, done.answer = self._flags, self._upstream, answer
        if self._suspect is not None and not self._flags & Flag.ENGINE_DOWN:
            done.suspect = self._suspect
        self._finished(done)

    def _start(self, status: int, headers: Headers) -> None:
        self._started = True
        self._down.start(status, headers + self._exchange.headers(self._sent))

    def _refuse(self) -> None:
        self._cancel()
        self.on_failure(Failure.PROTOCOL)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _usage(self) -> Usage:
        return read_usage(self._editor.usage_event) if self._editor is not None else Usage()
