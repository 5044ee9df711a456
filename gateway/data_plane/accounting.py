"""What follows an answer: metrics, limits, its record, the breaker, and whoever looks at the text afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from adapters.types import Flag
from gateway.data_plane.breaker import Trip
from gateway.data_plane.events import EventWriter
from gateway.data_plane.evidence import Evidence, Pair
from gateway.data_plane.exchange import OK, Finished
from gateway.data_plane.limits import Limiter
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.shadow import Shadows
from gateway.data_plane.watch import MIRROR
from monitors.conventions import EventKind, Outcome
from monitors.metrics import Recorder

_GUARD: Final = int(Flag.GUARD)


@dataclass(slots=True)
class Accountant:
    """One per worker. `request` and `shadow` are called once for each answer, in the loop; nothing here waits."""

    limiter: Limiter
    recorder: Recorder
    events: EventWriter
    evidence: Evidence
    shadows: Shadows
    on_trip: Callable[[Trip], None]

    def request(self, done: Finished) -> None:
        """A user's request is over."""
        exchange, usage = done.exchange, done.usage
        if exchange.metrics is not None:
            exchange.metrics.finished(
                done.status, done.outcome, done.duration, done.ttft, usage.output_tokens, usage.input_tokens,
                done.overhead,
            )  # fmt: skip
        if exchange.reserved_tokens:
            self.limiter.settle(exchange.principal, exchange.reserved_tokens, _used(done))
        if done.suspect is None or done.upstream is None:
            self._conclude(done)
        else:
            self._ask(done, self._conclude)

    def shadow(self, mirror: Mirror, done: Finished, stable: Finished) -> None:
        """A mirrored request is over; `stable`: what the user got. Screened like what users get, then compared."""
        screen = done.exchange.target.screen
        done.benign = stable.benign  # the prompt is the same
        if screen is None or done.outcome is not OK:
            self._shadow(mirror, done, stable)
        else:
            screen.shadow(done, lambda: self._shadow(mirror, done, stable))

    def _shadow(self, mirror: Mirror, done: Finished, stable: Finished) -> None:
        if done.suspect is None or done.upstream is None:
            self._of_shadow(done)
        else:
            self._ask(done, self._of_shadow)
        if done.outcome is OK and stable.outcome is OK:
            self.evidence.pair(Pair(mirror.rollout, stable, done))

    def _of_shadow(self, done: Finished) -> None:
        self._record(done)
        if done.bad:
            self.events.hurry()

    def _ask(self, done: Finished, then: Callable[[Finished], None]) -> None:
        """First find out whether the engine is gone: then it was not the version's fault."""

        def found(gone: bool) -> None:
            if gone:
                done.flags |= Flag.ENGINE_DOWN
            then(done)

        assert done.upstream is not None and done.suspect is not None
        done.upstream.check(done.suspect, found)

    def _conclude(self, done: Finished) -> None:
        self._record(done)
        watch = done.exchange.target.watch
        if watch is None:
            return
        if watch.rollout and (done.flags or done.outcome is not OK) and done.bad:
            self.events.hurry()
        if watch.guard is not None:
            trip = watch.guard.observe(done, time.monotonic())
            if trip is not None:
                self._tripped(trip)
        selected = done.exchange.selected
        if selected & ~MIRROR and done.outcome is OK:
            self.evidence.offer(done)
        if selected & MIRROR and watch.mirror is not None and _answered(done):
            self.shadows.offer(watch.mirror, done)

    def _record(self, done: Finished) -> None:
        exchange, usage = done.exchange, done.usage
        self.events.response(
            (
                exchange.response_id, time.time(), exchange.target.assignment, exchange.unit,
                exchange.request.endpoint.name, done.status, str(done.outcome), done.ttft, done.duration,
                usage.input_tokens, usage.output_tokens, int(done.flags),
            )
        )  # fmt: skip

    def _tripped(self, trip: Trip) -> None:
        self.recorder.breaker(trip.route, trip.version)
        numbers = {"failures": trip.failures, "assignment": trip.assignment, "engine": trip.engine}
        actor = f"worker {os.getpid()}"
        row = (trip.rollout, time.time(), "breaker", actor, trip.reason, orjson.dumps(numbers).decode())
        self.events.record(EventKind.ROLLOUT, row)
        self.events.hurry()
        self.on_trip(trip)


def _answered(done: Finished) -> bool:
    """The version has answered, well or unsafely: what stable may be blocked for, the candidate must be tried with."""
    return done.outcome is OK or (done.outcome is Outcome.BLOCKED and done.flags & _GUARD != 0)


def _used(done: Finished) -> int:
    """The tokens a request is charged. Where the engine did not get to count, whoever left pays the estimate: leaving
    just before the end must not make an answer free. What failed costs nothing."""
    usage = done.usage
    if usage.input_tokens is None and usage.output_tokens is None and done.outcome is not Outcome.ERROR:
        return done.exchange.reserved_tokens
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)
