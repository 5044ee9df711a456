"""One lane per grader: requests wait together, are scored in batches in a thread, and no grader waits for another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters.errors import GraderError, GraderUnavailable, UnderstudyError
from gateway.errors import unavailable
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.composite import Composite, scored
from monitors.rewards.types import Grader, Preparable, Sample, Scores, is_score

COMPOSITE = "composite"
_PROBE = Sample(({"role": "user", "content": "What is 2 + 2?"},), "4", {})
_RETRY = (1.0, 30.0)         # seconds between attempts to prepare a grader: first, longest

log = logging.getLogger("understudy.reward")


@dataclass(frozen=True)
class _Item:
    samples: Sequence[Sample]
    scores: asyncio.Future[Scores]


class Lane:
    """One grader. `reason` is empty once it is prepared; until then its scores are missing."""

    def __init__(self, grader: Grader, *, batch: int, wait: float, metrics: ScoringMetrics) -> None:
        self.name = grader.name
        self.fingerprint = ""
        self.reason = "not prepared yet"
        self._grader = grader
        self._batch = batch
        self._wait = wait
        self._metrics = metrics
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._complained = 0.0

    async def prepare(self) -> None:
        """Load it and score one answer. Raises GraderUnavailable when it may work later, GraderError when it cannot."""
        try:
            self.fingerprint = await asyncio.to_thread(self_test, self._grader)
        except UnderstudyError as error:
            self.reason = str(error)
            raise
        self.reason = ""

    async def run(self) -> None:
        """Score what comes, for ever."""
        delay = _RETRY[0]
        while self.reason:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY[1])
            try:
                await self.prepare()
            except UnderstudyError as error:
                log.warning("grader %s is not ready: %s", self.name, error)
        while True:
            items = await self._collect()
            samples = [sample for item in items for sample in item.samples]
            scores = await asyncio.to_thread(self._score, samples)
            start = 0
            for item in items:
                end = start + len(item.samples)
                if not item.scores.done():
                    item.scores.set_result(scores[start:end])
                start = end

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """One score per sample; all missing while the grader is not ready."""
        if self.reason:
            self._metrics.count(self.name, [None] * len(samples))
            return [None] * len(samples)
        item = _Item(samples, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(item)
        return await item.scores

    async def _collect(self) -> list[_Item]:
        """The next item and what comes within the wait, up to a batch; not what nobody waits for any more."""
        items: list[_Item] = []
        while not items:
            waiting = [await self._queue.get()]
            if len(waiting[0].samples) < self._batch and self._queue.empty():
                await asyncio.sleep(self._wait)
            while sum(len(item.samples) for item in waiting) < self._batch and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            items = [item for item in waiting if not item.scores.done()]
        return items

    def _score(self, samples: Sequence[Sample]) -> Scores:
        """In a thread. One bad sample must not cost the others theirs: after a failure each is tried alone."""
        began = time.perf_counter()
        try:
            scores, failed = self._checked(samples), 0
        except UnderstudyError as error:
            self._complain(error)
            alone = [self._alone(sample) for sample in samples] if len(samples) > 1 else [None]
            scores, failed = [one[0] if one else None for one in alone], sum(one is None for one in alone)
        self._metrics.observe(self.name, scores, failed, time.perf_counter() - began)
        return scores

    def _alone(self, sample: Sample) -> Scores | None:
        try:
            return self._checked([sample])
        except UnderstudyError as error:
            self._complain(error)
            return None

    def _checked(self, samples: Sequence[Sample]) -> Scores:
        scores = scored(self._grader, samples)
        for score in scores:
            if not is_score(score):
                raise GraderError(f"grader {self.name!r} gave {score!r}, which is not in 0..1")
        return scores

    def _complain(self, error: UnderstudyError) -> None:
        """At most one line a minute."""
        now = time.monotonic()
        if now - self._complained > 60.0 or not self._complained:
            self._complained = now
            log.warning("grader %s failed: %s", self.name, error)


class Scorer:
    """All lanes. `limit` bounds the samples that wait or are being scored."""

    def __init__(self, lanes: Sequence[Lane], composite: Composite | None, limit: int, metrics: ScoringMetrics) -> None:
        self._lanes = tuple(lanes)
        self._composite = composite
        self._limit = limit
        self._metrics = metrics
        self._waiting = 0

    async def prepare(self) -> None:
        """Prepare every grader. Raises GraderError for one that is broken; one that is away is tried again later."""
        for lane in self._lanes:
            try:
                await lane.prepare()
            except GraderUnavailable as error:
                log.warning("grader %s is not ready: %s", lane.name, error)

    async def run(self) -> None:
        """Score what comes, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run())

    def reasons(self) -> dict[str, str]:
        """Graders that are not ready, and why."""
        return {lane.name: lane.reason for lane in self._lanes if lane.reason}

    def fingerprints(self) -> dict[str, str | None]:
        """Of every grader, and of the composite; None for what is not ready."""
        found = {lane.name: None if lane.reason else lane.fingerprint for lane in self._lanes}
        if self._composite is not None:
            ready = all(found[name] for name in self._composite.weights)
            found[COMPOSITE] = self._composite.fingerprint if ready else None
        return found

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, float | None]]:
        """For each sample the scores by grader. Raises ApiError (503) when too much waits already."""
        if self._waiting + len(samples) > self._limit:
            self._metrics.refused()
            raise unavailable(f"{self._waiting} samples wait already, {self._limit} may", retry_after=1.0)
        self._waiting += len(samples)
        self._metrics.waiting(self._waiting)
        try:
            columns = await asyncio.gather(*(lane.score(samples) for lane in self._lanes))
        finally:
            self._waiting -= len(samples)
            self._metrics.waiting(self._waiting)
        names = [lane.name for lane in self._lanes]
        return [self._row(dict(zip(names, scores, strict=True))) for scores in zip(*columns, strict=True)]

    def _row(self, scores: dict[str, float | None]) -> Mapping[str, float | None]:
        return scores if self._composite is None else scores | {COMPOSITE: self._composite.combine(scores)}


def self_test(grader: Grader) -> str:
    """Prepare it, score one answer, and return its fingerprint. Raises GraderError with the grader's name."""
    try:
        if isinstance(grader, Preparable):
            grader.prepare()
        for score in scored(grader, [_PROBE]):
            if not is_score(score):
                raise GraderError(f"it gave {score!r} in its self-test, which is not in 0..1")
        return grader.fingerprint
    except GraderUnavailable:
        raise
    except UnderstudyError as error:
        raise GraderError(f"grader {grader.name!r}: {error}") from error
