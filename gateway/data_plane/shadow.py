"""The shadow: a sample of what stable answered is asked of the candidate too, for evidence only.

A prompt is mirrored when the user's own answer has ended: nothing of the shadow can then delay it, only answers that
went well need a partner, and the load is one request lower than a moment before. Not streamed; within bounds: so many
under way, so many waiting, a time limit, and nothing at all while more than `ceiling` requests are in flight; then also
those under way are given up. A candidate that is stuck or failing costs its own slots and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from adapters.types import Flag
from gateway.data_plane.call import TIMEOUTS, Call, as_error
from gateway.data_plane.envelope import meaning
from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.push import Headers
from gateway.data_plane.sink import Failure
from gateway.data_plane.sse import Usage, is_written, read_usage
from gateway.data_plane.upstreams import Upstream, choose
from gateway.errors import ApiError
from monitors.conventions import Outcome, ShadowOutcome

WAITING = 4  # requests that may wait per one that may be under way
MAX_ANSWER = 4 * 1024**2  # bytes of a mirrored answer; a longer one has failed
PRIORITY = 1000  # vLLM serves lower numbers first; users' requests have none, which is 0
MIRRORED = frozenset({"chat", "completions", "responses", "messages"})

logger = logging.getLogger("understudy.shadow")


def mirrored_body(exchange: Exchange, mirror: Mirror, response_id: str, prioritised: bool) -> bytes:
    """The user's request as the candidate gets it: unstreamed, one choice, behind everybody else."""
    request = exchange.request
    dropped = ("stream", "stream_options", "n", "best_of")
    fields = {key: value for key, value in request.fields.items() if key not in dropped}
    fields["model"] = mirror.shadow.model
    if request.endpoint.id_in_body:
        fields["request_id"] = request.endpoint.id_prefix + response_id
    if prioritised:
        fields["priority"] = PRIORITY
    return orjson.dumps(fields)


@dataclass(slots=True)
class _Lane:
    """One mirror's requests: under way and waiting."""

    mirror: Mirror
    running: set[ShadowCall] = field(default_factory=set)
    waiting: deque[Finished] = field(default_factory=deque)


class Shadows:
    """One per worker. `in_flight()`: requests under way to engines, these included. `finished` hears of each end."""

    def __init__(
        self, minter: IdMinter, in_flight: Callable[[], int], count: Callable[[str, str], None], prioritised: bool
    ) -> None:
        self.minter = minter
        self.finished: Callable[[Mirror, Finished, Finished], None] = _nobody
        self.prioritised = prioritised
        self._in_flight = in_flight
        self._count = count
        self._lanes: dict[int, _Lane] = {}

    def offer(self, mirror: Mirror, stable: Finished) -> None:
        """Mirror a request that stable has answered, if there is room."""
        if stable.exchange.request.endpoint.name not in MIRRORED:
            return
        mirror = mirror.draw()
        lane = self._lanes.get(mirror.target.assignment)
        if lane is None:
            lane = self._lanes[mirror.target.assignment] = _Lane(mirror)
        if self._in_flight() >= mirror.shadow.ceiling:
            self._count(mirror.target.route, ShadowOutcome.SHED)
        elif len(lane.running) < mirror.shadow.concurrency:
            self._start(lane, stable)
        elif len(lane.waiting) < WAITING * mirror.shadow.concurrency:
            lane.waiting.append(stable)
        else:
            self._count(mirror.target.route, ShadowOutcome.DROPPED)

    def retain(self, mirrors: list[Mirror]) -> None:
        """The routing state has changed: what belongs to shadows that are gone is given up."""
        current = {mirror.target.assignment: mirror for mirror in mirrors}
        for assignment, lane in list(self._lanes.items()):
            if assignment in current:
                lane.mirror = current[assignment]
            else:
                self._give_up(lane, ShadowOutcome.DROPPED)
                del self._lanes[assignment]

    def shed(self) -> None:
        """Say now and then: above the ceiling users come first, also before what is already under way."""
        for lane in self._lanes.values():
            if (lane.running or lane.waiting) and self._in_flight() > lane.mirror.shadow.ceiling:
                self._give_up(lane, ShadowOutcome.SHED)

    def close(self) -> None:
        """Give everything up."""
        self.retain([])

    def _give_up(self, lane: _Lane, outcome: ShadowOutcome) -> None:
        for _ in range(len(lane.running) + len(lane.waiting)):
            self._count(lane.mirror.target.route, outcome)
        lane.waiting.clear()
        for call in lane.running:
            call.cancel()
        lane.running.clear()

    def _start(self, lane: _Lane, stable: Finished) -> None:
        mirror = lane.mirror
        target = mirror.target
        upstream = choose(target.upstreams, target.version, time.monotonic())
        if upstream is None:
            self._count(target.route, ShadowOutcome.FAILED)
            return
        call = ShadowCall(self, mirror, stable, upstream)
        lane.running.add(call)
        call.begin()

    def ended(self, call: ShadowCall, outcome: ShadowOutcome, done: Finished) -> None:
        """A call is over: account for it, and go on with the next."""
        lane = self._lanes.get(call.mirror.target.assignment)
        if lane is None or call not in lane.running:
            return
        lane.running.remove(call)
        self._count(call.mirror.target.route, outcome)
        self.finished(call.mirror, done, call.stable)
        while lane.waiting and len(lane.running) < lane.mirror.shadow.concurrency:
            stable = lane.waiting.popleft()
            if self._in_flight() >= lane.mirror.shadow.ceiling:
                self._count(lane.mirror.target.route, ShadowOutcome.SHED)
            else:
                self._start(lane, stable)


class ShadowCall:
    """One mirrored request: the sink of the candidate's answer."""

    __slots__ = (
        "_begun", "_buffer", "_call", "_exchange", "_size", "_status", "_timer", "_upstream", "mirror", "owner",
        "stable",
    )  # fmt: skip

    def __init__(self, owner: Shadows, mirror: Mirror, stable: Finished, upstream: Upstream) -> None:
        self.owner, self.mirror, self.stable = owner, mirror, stable
        given = stable.exchange
        flags = int(Flag.SHADOW) | (given.flags & int(Flag.NO_UNIT))
        minted = owner.minter.mint(mirror.target.assignment, given.principal.owner_tag, given.unit, time.time())
        self._exchange = given.mirrored(mirror.target, minted, flags)
        self._upstream = upstream
        self._call: Call | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer: list[bytes] = []
        self._size = self._status = 0
        self._begun = time.monotonic()

    def begin(self) -> None:
        """Send it."""
        exchange = self._exchange
        body = mirrored_body(exchange, self.mirror, exchange.response_id, self.owner.prioritised)
        header = b"x-request-id: %b\r\n" % exchange.response_id.encode()
        path = exchange.request.endpoint.path.encode()
        self._call = self._upstream.call(path, header, body, self, blames=False)
        self._timer = self._upstream.loop.call_later(self.mirror.shadow.timeout, self._late)

    def cancel(self) -> None:
        """It is no longer wanted; nobody hears of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call.cancel()

    # -- Sink ---------------------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        """Remember the status."""
        self._status = status

    def on_data(self, data: bytes) -> None:
        """Collect."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self.cancel()
            self.on_failure(Failure.PROTOCOL)
        else:
            self._buffer.append(data)

    def on_chunk(self, data: bytes, at: int) -> None:
        """Collect."""
        self.on_data(data[at:-2])

    def on_end(self) -> None:
        """An answer, or the engine's error."""
        body = b"".join(self._buffer)
        if self._status == 200:
            flags = 0 if is_written(body) else int(Flag.EMPTY)
            self._end(ShadowOutcome.OK, self._done(200, Outcome.OK, read_usage(body), flags, body))
            return
        error = self._exchange.translate(self._status, body)
        if self._status == 404:
            self._upstream.denied(self.mirror.target.version)
            error = as_error(Failure.CONNECT)  # the replica lost the version: the replica's fault
        self._failed(error, ShadowOutcome.FAILED)

    def on_failure(self, failure: Failure) -> None:
        """No complete answer."""
        outcome = ShadowOutcome.TIMEOUT if failure in TIMEOUTS else ShadowOutcome.FAILED
        self._failed(as_error(failure), outcome, failure)

    def _late(self) -> None:
        if self._call is not None and self._call.live:
            self._call.cancel()
            self.on_failure(Failure.TOTAL)

    def _failed(self, error: ApiError, outcome: ShadowOutcome, suspect: Failure | None = None) -> None:
        done = self._done(error.status, Outcome.ERROR, Usage(), meaning(error))
        done.suspect = None if done.flags & int(Flag.ENGINE_DOWN) else suspect
        self._end(outcome, done)

    def _done(self, status: int, outcome: Outcome, usage: Usage, flags: int, answer: bytes = b"") -> Finished:
        duration = time.monotonic() - self._begun
        done = Finished(self._exchange, status, outcome, duration, None, 0.0, usage, self._exchange.flags | flags)
        done.upstream, done.answer = self._upstream, answer
        return done

    def _end(self, outcome: ShadowOutcome, done: Finished) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.owner.ended(self, outcome, done)


def _nobody(_mirror: Mirror, _done: Finished, _stable: Finished) -> None:
    """Until somebody wants to know."""
