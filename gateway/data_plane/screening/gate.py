"""One screened request: the relay's Downstream and the client's Producer. Nothing in it awaits.

The prompt is judged while the engine writes. In `enforce` the answer's first byte waits for the prompt's verdict, and
the answer for its own; the account waits for both in any mode. Whatever goes wrong in here ends the answer: a bug must
not let anything through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.data_plane.envelope import render, sse_error
from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.push import Downstream, Headers, Producer
from gateway.data_plane.screening import refusals
from gateway.data_plane.screening.outline import Outline
from gateway.data_plane.screening.policy import Ruling
from gateway.data_plane.screening.questions import Questions
from gateway.data_plane.screening.reckoning import Reckoning
from gateway.data_plane.screening.stream import StreamBody
from gateway.data_plane.screening.whole import WholeBody
from gateway.data_plane.sse import Usage
from gateway.errors import ApiError, internal_error
from monitors.conventions import Outcome
from monitors.labels import Verdict

if TYPE_CHECKING:
    from gateway.data_plane.screening.screening import RouteScreen

SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

logger = logging.getLogger("understudy.screening")


class Gate:
    """See the module's docstring. `account` is called exactly once, when relay, client and guard are all done."""

    __slots__ = (
        "_body", "_closed", "_down", "_ended", "_head_sent", "_passes", "_paused", "_reckoning", "_throttled",
        "_waits", "exchange", "head", "holds_answer", "policy", "producer", "questions", "settings",
    )  # fmt: skip

    def __init__(
        self, screen: RouteScreen, exchange: Exchange, down: Downstream, account: Callable[[Finished], None]
    ) -> None:
        self.producer: Producer | None = None  # the relay
        self.exchange = exchange
        self.policy, self.settings = screen.policy, screen.settings
        self.questions = Questions(screen, exchange, self._safely, self._settle)
        self.head: Headers = []
        prompt, response = screen.policy.prompt, screen.policy.response
        self.holds_answer = response is not None and response.enforce
        self._waits = prompt is not None and prompt.enforce  # for the prompt's verdict
        self._reckoning = Reckoning(exchange, account, self._waits or self.holds_answer)
        self._down = down
        self._body: StreamBody | WholeBody | None = None
        self._head_sent = self._passes = self._ended = self._closed = self._paused = self._throttled = False

    def begin(self) -> None:
        """The engine has been asked: have the prompt judged."""
        self._down.producer = self
        if not self.questions.about_prompt(self._prompt_judged):
            self._waits = False

    # -- Downstream: the relay's side ---------------------------------------------------------------------------

    def start(self, status: int, headers: Headers) -> None:
        """An answer begins; one that is an error is nothing to judge."""
        if self._closed:
            return
        if status != 200:
            self._passes = True
            self.questions.drop()
            self._down.start(status, headers)
            return
        self.head = headers
        streamed = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        self._body = StreamBody(self, Outline(self.exchange, self.settings.message)) if streamed else WholeBody(self)
        self.advance()

    def write(self, data: bytes) -> None:
        """A piece of it."""
        body = self._body
        if self._passes and not self._closed:
            self._down.write(data)
        elif body is not None and not self._closed:
            self._safely(lambda: body.write(data))

    def chunks(self) -> None:
        """What is judged comes without frames."""

    def finish(self) -> None:
        """It is complete; `finished` follows at once."""
        self._ended = True
        if self._passes:
            self.close()

    def finished(self, done: Finished) -> None:
        """The relay's account."""
        body = self._body
        if self._reckoning.given(done) and self._ended and body is not None and not self._closed:
            self._safely(body.finish)
        self._settle()

    # -- Producer: the client's side ----------------------------------------------------------------------------

    def disconnected(self) -> None:
        """The client went away: nobody waits for an answer or a verdict."""
        self._closed = True
        self._reckoning.left()
        self.questions.drop()
        self._stop_relay()
        self._settle()

    def pause(self) -> None:
        """The client reads slowly."""
        self._paused = True
        self._throttle()

    def resume(self) -> None:
        """The client caught up."""
        self._paused = False
        self.advance()

    # -- for the body -------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Send on what may leave now."""
        body = self._body
        if body is not None and not (self._closed or self._waits or self._paused):
            if not self._head_sent and isinstance(body, StreamBody):
                self._send_head(200, self.head)
            self._safely(body.pump)
        self._throttle()

    def send(self, data: bytes, status: int = 200, headers: Headers | None = None) -> None:
        """Bytes that are cleared."""
        if not self._head_sent:
            self._send_head(status, self.head if headers is None else headers)
        self._down.write(data)

    def spoke(self) -> None:
        """The first text is leaving."""
        self._reckoning.spoke()

    def close(self) -> None:
        """Everything has been sent."""
        if not self._closed:
            self._closed = True
            self._reckoning.closed()
            self._down.finish()
            self._settle()

    def blocked(self, tokens: int, status: int = 200) -> Usage:
        """Nothing more may leave: the engine stops. What is to be reported as usage; `tokens`: what was written.

        `status`: for the account; 503 for want of a verdict, also where the client has had a 200 before.
        """
        self.questions.drop_answers()
        self._reckoning.instead(Outcome.BLOCKED, status)
        self._stop_relay()
        return self._reckoning.usage(tokens)

    # -- the prompt ---------------------------------------------------------------------------------------------

    def _prompt_judged(self, ruling: Ruling) -> None:
        if ruling.blocks and not self._closed:
            self._refuse(ruling)
        else:
            self._waits = False
            self.advance()

    def _refuse(self, ruling: Ruling) -> None:
        """Answer instead of the engine, which the client has not heard yet."""
        message = self.settings.message
        if ruling.verdict is Verdict.UNAVAILABLE:
            message = f"this cannot be screened: {ruling.reason or 'the guard gave no verdict'}"
        if ruling.away:
            self._answer_error(refusals.unscreened_error(), Outcome.BLOCKED)
        elif self.policy.refuse_with_error:
            self._answer_error(refusals.blocked_error(message), Outcome.BLOCKED)
        else:
            usage = self.blocked(0)
            if self.exchange.request.stream:
                body = Outline(self.exchange, message).refuse_all(set(), usage)
                headers = SSE
            else:
                body = refusals.whole(self.exchange, message, usage)
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            self.send(body, 200, [*headers, *self._own_headers()])
            self.close()

    def _answer_error(self, error: ApiError, outcome: Outcome) -> None:
        self.blocked(0)
        self._reckoning.instead(outcome, error.status)
        status, headers, body = render(error)
        self.send(body, status, [*headers, *self._own_headers()])
        self.close()

    # -- small things -------------------------------------------------------------------------------------------

    def _own_headers(self) -> Headers:
        return self.exchange.headers(self._reckoning.began)

    def _stop_relay(self) -> None:
        if not self._ended and not self._reckoning.known and self.producer is not None:
            self.producer.disconnected()

    def _send_head(self, status: int, headers: Headers) -> None:
        self._head_sent = True
        self._down.start(status, headers)

    def _throttle(self) -> None:
        """Read from the engine only while the client reads and what waits is not too much."""
        wanted = self._paused or (self._body is not None and self._body.full)
        if wanted == self._throttled or self._ended or self._reckoning.known or self.producer is None:
            return
        self._throttled = wanted
        if wanted:
            self.producer.pause()
        else:
            self.producer.resume()

    def _safely(self, step: Callable[[], None]) -> None:
        """Fail closed."""
        try:
            step()
        except Exception:
            logger.exception("bug while screening")
            self._break_off(internal_error())

    def _break_off(self, error: ApiError) -> None:
        self._body = None
        self.questions.drop()
        if self._closed or not self._head_sent:
            if not self._closed:
                self._answer_error(error, Outcome.ERROR)
            return
        self.blocked(0)
        self._reckoning.instead(Outcome.ERROR, error.status)
        self._down.write(sse_error(error, self.exchange.request.endpoint.name))
        self.close()

    def _settle(self) -> None:
        if self._closed and not self.questions.open:
            self._reckoning.settle(self.questions)
