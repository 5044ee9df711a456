"""Concurrent requests share forward passes: what waits when a pass ends goes into the next one, a bounded batch."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from adapters.errors import UnderstudyError
from monitors.llama_guard.types import Backend, GuardUnavailable, Prompt, Scored

_REMEMBERED = 4096   # prompts whose score is kept: agents send the same history again and again

log = logging.getLogger("understudy.guard")

Observe = Callable[[int, float], None]


class Overloaded(UnderstudyError):
    """Too much waits already."""


class _Job:
    """The prompts of one request, and their scores as they come."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.left = deque(enumerate(prompts))
        self.scores: list[Scored | None] = [None] * len(prompts)
        self.missing = len(prompts)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Batcher:
    """Feeds a back end from one thread. `size`: prompts in a pass; `tokens`: of a pass, padding included.

    `limit`: prompts that may wait. Requests take turns, a prompt each, so that a long text does not hold up short ones.
    `observe` is told (prompts, seconds) of every pass.
    """

    def __init__(self, backend: Backend, ask_above: float, *, size: int, tokens: int, limit: int,
                 observe: Observe = lambda prompts, seconds: None) -> None:  # fmt: skip
        self._backend = backend
        self._ask_above = ask_above
        self._size = size
        self._most_tokens = tokens
        self._limit = limit
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._known: OrderedDict[bytes, Scored] = OrderedDict()
        self.waiting = 0

    async def score(self, prompts: Sequence[Prompt]) -> list[Scored]:
        """One per prompt, in order. Raises Overloaded; a pass that fails gives scores without margin, but a reason."""
        found = [self._known.get(_key(prompt)) for prompt in prompts]
        new = [prompt for prompt, known in zip(prompts, found, strict=True) if known is None]
        if not new:
            return [known for known in found if known is not None]
        if self.waiting + len(new) > self._limit:
            raise Overloaded(f"{self.waiting} prompts wait, {len(new)} more are too many: {self._limit} may")
        job = _Job(new)
        self.waiting += len(new)
        self._jobs.append(job)
        self._arrived.set()
        try:
            await job.done
        finally:
            self.waiting -= len(job.left)
            job.left.clear()
        fresh = iter(score for score in job.scores if score is not None)
        return [known or next(fresh) for known in found]

    async def run(self) -> None:
        """Score what comes, for ever."""
        with ThreadPoolExecutor(1, thread_name_prefix="guard") as thread:
            while True:
                await self._arrived.wait()
                batch = self._collect()
                if not batch:
                    self._arrived.clear()
                    continue
                prompts = [job_prompt for _, _, job_prompt in batch]
                scores = await asyncio.get_running_loop().run_in_executor(thread, self._pass, prompts)
                for (job, place, prompt), score in zip(batch, scores, strict=True):
                    self._remember(prompt, score)
                    job.scores[place] = score
                    job.missing -= 1
                    if not job.missing and not job.done.done():
                        job.done.set_result(None)

    def _collect(self) -> list[tuple[_Job, int, Prompt]]:
        """The next prompt of each job in turn, until the batch is full."""
        batch: list[tuple[_Job, int, Prompt]] = []
        longest = 0
        while self._jobs and len(batch) < self._size:
            job = self._jobs.popleft()
            if not job.left:  # finished, or nobody waits for it any more
                continue
            place, prompt = job.left[0]
            longest = max(longest, len(prompt.ids))
            if batch and longest * (len(batch) + 1) > self._most_tokens:
                self._jobs.appendleft(job)
                break
            job.left.popleft()
            self.waiting -= 1
            batch.append((job, place, prompt))
            self._jobs.append(job)
        return batch

    def _pass(self, prompts: Sequence[Prompt]) -> list[Scored]:
        """In the thread. One bad prompt must not cost the others theirs: after a failure each is tried alone."""
        began = time.perf_counter()
        try:
            scores = self._backend.score(prompts, self._ask_above)
        except GuardUnavailable as error:
            scores = [Scored(None, reason=str(error))] * len(prompts)
        except Exception as error:  # torch, CUDA, a vLLM that answers rubbish
            log.warning("a pass over %d prompts failed: %s: %s", len(prompts), type(error).__name__, error)
            scores = [self._alone(prompt) for prompt in prompts] if len(prompts) > 1 else [_failed(error)]
        self._observe(len(prompts), time.perf_counter() - began)
        return scores

    def _alone(self, prompt: Prompt) -> Scored:
        try:
            return self._backend.score([prompt], self._ask_above)[0]
        except Exception as error:  # as above
            return _failed(error)

    def _remember(self, prompt: Prompt, score: Scored) -> None:
        if score.margin is not None:
            self._known[_key(prompt)] = score
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _key(prompt: Prompt) -> bytes:
    return hashlib.sha256(array("q", prompt.ids).tobytes()).digest() + bytes([bool(prompt.codes)])


def _failed(error: Exception) -> Scored:
    return Scored(None, reason=f"the guard failed: {type(error).__name__}")
