"""Looks at sampled answers after they have left: text statistics, and samples for the graders.

In the loop, between other things, SLICE seconds at a time: an answer costs some 30 µs. A thread would cost five times
as much, because every zlib call hands the interpreter over and the loop's next wait hands it back (docs/shadow.md).
Texts are dropped as soon as they are looked at; what stays are numbers: rows of `scores` and `shadow_pairs`, and
histograms.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.data_plane.events import EventWriter
from gateway.data_plane.exchange import Finished
from gateway.data_plane.grading import Grading, Job, Scores, Text
from gateway.data_plane.held import MAX_KEPT
from gateway.data_plane.texts import answer_text, prompt_messages
from gateway.data_plane.watch import STORE
from monitors.answer_statistics import Repetition, answer_statistics, tokenise
from monitors.conventions import EventKind
from monitors.metrics import Recorder
from monitors.refusal import is_refusal

logger = logging.getLogger("understudy.evidence")

CAPACITY = 512  # answers that may wait to be looked at
MOST_WAITING = 64 * 1024**2  # bytes of requests and answers that may wait
SLICE = 0.0005  # seconds of looking before the loop sees to its connections again
VERSIONS = 16  # versions whose earlier answers are remembered


@dataclass(frozen=True, slots=True)
class Pair:
    """The same prompt, answered by stable and by the shadow."""

    rollout: int
    stable: Finished
    shadow: Finished


class Evidence:
    """All but what graders bring happens in the loop's thread; `grading` None: there are none."""

    def __init__(self, events: EventWriter, recorder: Recorder, grading: Grading | None) -> None:
        self._events = events
        self._recorder = recorder
        self._grading = grading
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Finished | Pair] = deque()
        self._waiting = 0  # bytes
        self._scheduled = False
        self._repetitions: dict[str, Repetition] = {}

    def offer(self, done: Finished) -> None:
        """Look at a user's answer. Never waits: dropped and counted when too many are waiting."""
        self._put(done)

    def pair(self, pair: Pair) -> None:
        """Compare the two answers of a pair."""
        self._put(pair)

    def close(self) -> None:
        """Look at what is still waiting."""
        while self._queue:
            self._next()

    def _put(self, item: Finished | Pair) -> None:
        if len(self._queue) >= CAPACITY or self._waiting >= MOST_WAITING:
            self._recorder.events_dropped(EventKind.TEXT)
            return
        self._waiting += _size(item)
        self._queue.append(item)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        until = time.monotonic() + SLICE
        while self._queue and time.monotonic() < until:
            self._next()
        self._scheduled = bool(self._queue)
        if self._scheduled:
            self._loop.call_soon(self._work)

    def _next(self) -> None:
        item = self._queue.popleft()
        self._waiting -= _size(item)
        try:
            self._look(item)
        except Exception:  # one odd answer must not end the worker
            logger.exception("bug while looking at an answer")

    def _look(self, item: Finished | Pair) -> None:
        if isinstance(item, Pair):
            self._look_at_pair(item)
            return
        text = _text(item)
        found = self._statistics(item, text)
        duplicates, compression = found["duplicate_4gram"], found["compression_ratio"]
        self._recorder.text(*_version(item), duplicates=duplicates, compression=compression)
        if not item.exchange.selected & STORE:
            return
        now = time.time()
        for name, value in found.items():
            self._events.record(EventKind.SCORE, score_row(item, now, f"text.{name}", value))
        if self._grading is not None:
            self._grade([(item, text)], lambda scores: self._scored(item, scores[0]))

    def _scored(self, item: Finished, scores: Scores) -> None:
        """In the grading thread."""
        now = time.time()
        for grader, value in scores.items():
            self._events.record(EventKind.SCORE, score_row(item, now, f"reward.{grader}", value))
        self._in_loop(lambda: self._count_rewards(item, scores))

    def _look_at_pair(self, pair: Pair) -> None:
        texts = [(item, _text(item)) for item in (pair.stable, pair.shadow)]
        stable, shadow = (
            answer_statistics(text) | _screened(item, text) | _tokens(item) for item, text in texts
        )
        self._paired(pair, {f"text.{name}": value for name, value in stable.items()},
                     {f"text.{name}": value for name, value in shadow.items()})  # fmt: skip
        if self._grading is not None:
            self._grade(texts, lambda scores: self._paired(pair, *(_rewards(of) for of in scores)))

    def _paired(self, pair: Pair, stable: dict[str, float], shadow: dict[str, float]) -> None:
        """Rows for what both have. From the loop's thread, and from the grading one."""
        exchange, now, mirrored = pair.stable.exchange, time.time(), pair.shadow.exchange.target.assignment
        for name in stable.keys() & shadow.keys():
            row = (pair.rollout, exchange.response_id, now, exchange.unit, name, stable[name], shadow[name], mirrored)
            self._events.record(EventKind.PAIR, row)

    def _grade(self, texts: list[tuple[Finished, str]], then: Callable[[list[Scores]], None]) -> None:
        assert self._grading is not None
        if any(len(item.answer) >= MAX_KEPT and item.answer[:1] != b"{" for item, _ in texts):
            self._recorder.events_dropped(EventKind.GRADING)  # of a stream this long only the beginning is here
            return
        self._grading.offer(Job([_sample(item, text) for item, text in texts], then))

    def _statistics(self, item: Finished, text: str) -> dict[str, float]:
        tokens = tokenise(text)
        found = answer_statistics(text, tokens) | _screened(item, text) | _tokens(item)
        version = item.exchange.target.version
        seen = self._repetitions.pop(version, None) or Repetition()
        self._repetitions[version] = seen  # again: to the end, as the newest
        while len(self._repetitions) > VERSIONS:
            del self._repetitions[next(iter(self._repetitions))]
        repeated = seen.observe(tokens)
        return found if repeated is None else found | {"repetition": repeated}

    def _in_loop(self, call: Callable[[], None]) -> None:
        """Metrics are counted by the loop's thread alone."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: shutting down
            logger.debug("a metric came too late")

    def _count_rewards(self, item: Finished, scores: Scores) -> None:
        for grader, value in scores.items():
            self._recorder.reward(*_version(item), item.exchange.target.arm, grader=grader, score=value)


def _size(item: Finished | Pair) -> int:
    if isinstance(item, Pair):
        return _size(item.stable) + len(item.shadow.answer)
    return len(item.answer) + len(item.exchange.request.body)


def score_row(item: Finished, at: float, metric: str, value: float) -> tuple[object, ...]:
    """One row of `scores`; `at` in seconds since the epoch."""
    exchange = item.exchange
    return (exchange.response_id, at, exchange.target.assignment, exchange.unit, metric, value)


def _text(item: Finished) -> str:
    return answer_text(item.exchange.request.endpoint.name, item.answer)


def _tokens(item: Finished) -> dict[str, float]:
    """As the engine counted them, which is better than words."""
    count = item.usage.output_tokens
    return {} if count is None else {"tokens": float(count)}


def _screened(item: Finished, text: str) -> dict[str, float]:
    """Where the guard was asked: its P(unsafe) of the answer; whether a prompt that it calls safe was refused."""
    found = {} if item.guard_score is None else {"guard": item.guard_score}
    return found | {"refusal": float(is_refusal(text))} if item.benign else found


def _version(item: Finished) -> tuple[str, str]:
    return item.exchange.target.route, item.exchange.target.version


def _rewards(scores: Scores) -> dict[str, float]:
    return {f"reward.{name}": value for name, value in scores.items()}


def _sample(item: Finished, text: str) -> Text:
    request = item.exchange.request
    return Text(prompt_messages(request.endpoint.name, request.fields), text, _columns(request.fields.get("metadata")))


def _columns(metadata: object) -> dict[str, str]:
    """What a client says about a request may be what a grader needs, such as the expected answer."""
    if not isinstance(metadata, dict):
        return {}
    given: Iterable[tuple[object, object]] = metadata.items()
    return {key: value for key, value in given if isinstance(key, str) and isinstance(value, str)}
