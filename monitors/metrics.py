"""What the data plane counts. Handles are made when a snapshot is installed; counting a request is a few stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from typing import Final

from monitors import conventions as c
from monitors.labels import ScreeningStage, Verdict
from monitors.shared_values import Counter, Histogram, SharedValues

# What a child makes at once: a series must exist at 0 before its first failure, or rate() misses that failure.
_EXPECTED: Final = ((200, c.Outcome.OK), (502, c.Outcome.ERROR), (503, c.Outcome.ERROR), (504, c.Outcome.ERROR))
_OF_A_VERSION: Final = tuple(m for m in c.METRICS if "version" in m.labels and "route" in m.labels)


class RequestMetrics:
    """Counts the requests of one (route, version, arm, endpoint). Make it with Recorder.child()."""

    __slots__ = (
        "_duration", "_ends", "_in_flight", "_input", "_labels", "_output", "_output_size", "_overhead", "_tpot",
        "_ttft", "_values",
    )  # fmt: skip

    def __init__(self, values: SharedValues, route: str, version: str, arm: str, endpoint: str) -> None:
        self._values, self._labels = values, (route, version, arm, endpoint)
        self._ends: dict[tuple[int, str], Counter] = {}
        self._in_flight = values.gauge(c.IN_FLIGHT, route)
        self._duration = values.histogram(c.DURATIONS, *self._labels)
        self._ttft = values.histogram(c.TTFT, *self._labels)
        self._tpot = values.histogram(c.TPOT, *self._labels)
        self._overhead = values.histogram(c.GATEWAY_OVERHEAD, *self._labels)
        self._input = values.counter(c.TOKENS_TOTAL, route, version, c.TokenType.INPUT)
        self._output = values.counter(c.TOKENS_TOTAL, route, version, c.TokenType.OUTPUT)
        self._output_size = values.histogram(c.RESPONSE_TOKENS, route, version)
        values.histogram(c.SATISFACTION, route, version, arm)
        values.counter(c.WITHOUT_UNIT, route)
        if arm == c.ArmName.CANDIDATE:
            values.counter(c.BREAKER, route, version)
        for code, outcome in _EXPECTED:
            self._end(code, outcome)

    def started(self) -> None:
        """A request was routed here. finished() must follow exactly once."""
        self._in_flight.inc()

    def finished(  # noqa: PLR0917 (keywords cost time here; the order is the one of time)
        self,
        code: int,
        outcome: str,
        duration: float,
        ttft: float | None = None,
        output_tokens: int | None = None,
        input_tokens: int | None = None,
        overhead: float | None = None,
    ) -> None:
        """A started request ended. Times in seconds; `ttft` None = not a stream; tokens None = not known."""
        self._in_flight.dec()
        (self._ends.get((code, outcome)) or self._end(code, outcome)).inc()
        self._duration.observe(duration)
        if ttft is not None:
            self._ttft.observe(ttft)
            if output_tokens is not None and output_tokens > 1:
                self._tpot.observe((duration - ttft) / (output_tokens - 1))
        if output_tokens is not None:
            self._output.inc(output_tokens)
            self._output_size.observe(output_tokens)
        if input_tokens is not None:
            self._input.inc(input_tokens)
        if overhead is not None:
            self._overhead.observe(overhead)

    def _end(self, code: int, outcome: str) -> Counter:
        counter = self._values.counter(c.REQUESTS, *self._labels, str(code), outcome)
        self._ends[code, outcome] = counter
        return counter


class Recorder:
    """Everything the data plane of one process counts. All but events_dropped() from the loop's thread only."""

    def __init__(self, values: SharedValues, release: str = "") -> None:
        self._values = values
        self._children: dict[tuple[str, str, str, str], RequestMetrics] = {}
        self._gone: dict[str, float] = {}                # version → when it left the routes
        self._lock = threading.Lock()
        # Made here: series are made by the loop's thread only, and these count from others.
        self._dropped = {str(kind): values.counter(c.EVENTS_DROPPED, kind) for kind in c.EventKind}
        for reason in c.LimitReason:
            values.counter(c.RATE_LIMITED, reason)
        self._confirmed = values.gauge(c.SNAPSHOT_AGE)
        self._confirmed.set(time.monotonic())
        if release:
            values.gauge(c.BUILD_INFO, release).set(1.0)

    def child(self, route: str, version: str, arm: str, endpoint: str) -> RequestMetrics:
        """The handles for one kind of request; made once, then kept. Keep them with the routing state."""
        key = (route, version, arm, endpoint)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = RequestMetrics(self._values, *key)
        return found

    def refused(self, endpoint: str, code: int) -> None:
        """A request was refused before it was routed: its route, version and arm are empty."""
        self._values.counter(c.REQUESTS, "", "", c.ArmName.NONE, endpoint, str(code), c.Outcome.ERROR).inc()

    def retain(self, versions: Collection[str], now: float) -> None:
        """Say which versions can be routed to: the series of others go after RETIRE_AFTER. `now`: time.monotonic()."""
        for _, version, _, _ in self._children:
            if version and version not in versions:
                self._gone.setdefault(version, now)
        for version in self._gone.keys() & versions:
            del self._gone[version]
        self._expire(now)

    def _expire(self, now: float) -> None:
        for version in [version for version, since in self._gone.items() if now - since > c.RETIRE_AFTER]:
            del self._gone[version]
            self._values.drop("version", version, _OF_A_VERSION)
            self._children = {key: child for key, child in self._children.items() if key[1] != version}

    def engines(self, names: Iterable[str]) -> None:
        """These can be asked from now on: their series exist, at 0."""
        for name in names:
            self._values.counter(c.FAILOVERS, name)

    def failover(self, engine: str) -> None:
        """A request left `engine` for another before its first byte."""
        self._values.counter(c.FAILOVERS, engine).inc()

    def rate_limited(self, reason: str) -> None:
        """A request was refused with 429; `reason` is a LimitReason."""
        self._values.counter(c.RATE_LIMITED, reason).inc()

    def without_unit(self, route: str) -> None:
        """A request named no unit."""
        self._values.counter(c.WITHOUT_UNIT, route).inc()

    def feedback(self, route: str, version: str, arm: str, kind: str) -> None:
        """A feedback was accepted; `kind` is a FeedbackKind."""
        self._values.counter(c.FEEDBACK, route, version, arm, kind).inc()

    def satisfaction(self, route: str, version: str, arm: str, score: float) -> None:
        """The score of a feedback, 0..1."""
        histogram: Histogram = self._values.histogram(c.SATISFACTION, route, version, arm)
        histogram.observe(score)

    def text(self, route: str, version: str, *, duplicates: float, compression: float) -> None:
        """What a sampled answer's text is like: share of repeated 4-grams, and how far it compresses."""
        self._values.histogram(c.DUPLICATE_NGRAMS, route, version).observe(duplicates)
        self._values.histogram(c.COMPRESSION_RATIO, route, version).observe(compression)

    def reward(self, route: str, version: str, arm: str, *, grader: str, score: float) -> None:
        """A grader's score of a sampled answer, 0..1; `grader` is a name of the scoring service's configuration."""
        self._values.histogram(c.REWARD_SCORE, route, version, arm, grader).observe(score)

    def screened(self, route: str, version: str, *, stage: str, verdict: str, category: str) -> None:
        """A prompt or an answer was judged, or could not be; `category` is empty unless it is unsafe."""
        self._values.counter(c.SCREENING, route, version, stage, verdict, category).inc()

    def screening_expected(self, route: str, version: str, categories: Collection[str]) -> None:
        """A route's version is screened: its series exist from now on, at 0."""
        for stage in (ScreeningStage.PROMPT, ScreeningStage.RESPONSE):
            for verdict in (Verdict.SAFE, Verdict.UNAVAILABLE):
                self._values.counter(c.SCREENING, route, version, stage, verdict, "")
            for category in categories:
                self._values.counter(c.SCREENING, route, version, stage, Verdict.UNSAFE, category)

    def screening_took(self, stage: str, seconds: float) -> None:
        """The guard was asked for a verdict; `stage` is a ScreeningStage."""
        self._values.histogram(c.SCREENING_DURATION, stage).observe(seconds)

    def shadow(self, route: str, outcome: str) -> None:
        """A request that was to be mirrored ended; `outcome` is a ShadowOutcome."""
        self._values.counter(c.SHADOW, route, outcome).inc()

    def breaker(self, route: str, version: str) -> None:
        """This worker took a candidate's units back to stable by itself."""
        self._values.counter(c.BREAKER, route, version).inc()

    def events_dropped(self, kind: str, count: int = 1) -> None:
        """Records were lost; from any thread. `kind` is an EventKind."""
        with self._lock:
            self._dropped[kind].inc(count)

    def snapshot_age(self, seconds: float) -> None:
        """The routing state was known to be current `seconds` ago; the age grows by itself until said again.

        Say it every few seconds: it is also when series of versions that left long ago are dropped.
        """
        now = time.monotonic()
        self._confirmed.set(now - seconds)
        self._expire(now)
