"""The account of a screened request: the relay's, changed by what the screening did, given once and not too early."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.screening.questions import Questions
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome

_BYTES = 4  # of a request's body, per token of its prompt, where the engine did not get to count


class Reckoning:
    """`held`: the answer waited for verdicts, so the relay's times are not the client's."""

    __slots__ = ("_account", "_done", "_exchange", "_first", "_held", "_outcome", "_until", "_usage", "began")

    def __init__(self, exchange: Exchange, account: Callable[[Finished], None], held: bool) -> None:
        self._exchange = exchange
        self._account: Callable[[Finished], None] | None = account
        self._held = held
        self._done: Finished | None = None
        self._outcome: tuple[Outcome, int] | None = None
        self._usage: Usage | None = None
        self._first: float | None = None
        self.began = self._until = time.monotonic()

    @property
    def known(self) -> bool:
        """True once the relay has given its account."""
        return self._done is not None

    def given(self, done: Finished) -> bool:
        """The relay's account; only the first counts. False for others."""
        if self._done is not None:
            return False
        self._done = done
        return True

    def instead(self, outcome: Outcome, status: int) -> None:
        """It ended otherwise than the relay says."""
        self._outcome = outcome, status

    def left(self) -> None:
        """The client went away before the end."""
        self._held = False
        if self._done is not None and self._outcome is None:
            self._outcome = Outcome.CANCELLED, self._done.status

    def spoke(self) -> None:
        """The first text left for the client."""
        if self._first is None:
            self._first = time.monotonic()

    def closed(self) -> None:
        """The last byte left for the client."""
        self._until = time.monotonic()

    def usage(self, tokens: int) -> Usage:
        """What a blocked answer reports: what the engine counted, else an estimate where it wrote `tokens`."""
        found = self._done.usage if self._done is not None else Usage()
        if found.output_tokens is None and tokens:
            found = Usage(len(self._exchange.request.body) // _BYTES, tokens)
        self._usage = found
        return found

    def settle(self, known: Questions) -> None:
        """Verdicts and client are done: give the account, if the relay has, once."""
        done, account = self._done, self._account
        if done is None or account is None:
            return
        self._account = None
        done.flags |= known.flags
        done.guard_score, done.benign = known.score, known.benign
        if self._outcome is not None:
            done.outcome, done.status = self._outcome
            done.suspect, done.answer = None, b""
            done.usage = self._usage or done.usage
        if self._held:
            done.duration = self._until - self._exchange.received
            if done.ttft is not None:
                done.ttft = None if self._first is None else self._first - self._exchange.received
        account(done)
