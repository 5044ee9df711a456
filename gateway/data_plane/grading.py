"""Client of the scoring service (`understudy reward`): batches from a bounded queue, in a thread of its own.

A service that is away or busy is asked again with growing pauses (monitors.rewards.http_client); what does not fit
into the queue meanwhile, and what is refused, is dropped and counted. A missing score is missing, never 0.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.errors import UnderstudyError
from monitors.conventions import EventKind

if TYPE_CHECKING:
    from monitors.rewards.http_client import Client

logger = logging.getLogger("understudy.grading")

CAPACITY = 512  # jobs that may wait
MOST_WAITING = 16 * 1024**2  # characters that may wait
BATCH = 16  # jobs in one request
INTERVAL = 0.1  # seconds between two looks at the queue
MOST_GRADERS = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,49}")  # of a grader: a metric's name and a label

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Text:
    """One answer to be scored, as the service takes it."""

    prompt: list[dict[str, str]]
    completion: str
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """Texts that are scored together; `then` gets one dict of scores per text, in the grading thread."""

    texts: list[Text]
    then: Callable[[list[Scores]], None]


class Grading:
    """Owns the thread. `on_drop(kind, count)` counts what is lost."""

    def __init__(self, client: Client, on_drop: Callable[[str, int], None]) -> None:
        self._client = client
        self._on_drop = on_drop
        self._queue: deque[Job] = deque()
        self._put = self._taken = 0  # characters that came and went; each written by one thread
        self._away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="grading", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> None:
        """Queue a job; dropped and counted when too many, or too long ones, are waiting."""
        if len(self._queue) < CAPACITY and self._put - self._taken < MOST_WAITING and not self._stop.is_set():
            self._put += _size(job)
            self._queue.append(job)
        else:
            self._on_drop(EventKind.GRADING, 1)

    def close(self, seconds: float) -> None:
        """Stop after the request under way, for which at most `seconds` are waited. What is queued is dropped."""
        self._stop.set()
        self._thread.join(seconds)
        if left := len(self._queue):
            self._queue.clear()
            self._on_drop(EventKind.GRADING, left)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            while self._queue and not self._stop.is_set():
                self._score([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])

    def _score(self, jobs: list[Job]) -> None:
        self._taken += sum(map(_size, jobs))
        texts = [text for job in jobs for text in job.texts]
        samples = [
            {"id": str(place), "prompt": text.prompt, "completion": text.completion, "columns": text.columns}
            for place, text in enumerate(texts)
        ]
        try:
            scores = read_scores(self._client.post("/v1/score", {"samples": samples}), len(texts))
        except (UnderstudyError, ValueError) as error:
            if not self._away:
                logger.error("answers are not graded: %s", error)
            self._away = True
            self._on_drop(EventKind.GRADING, len(jobs))
            return
        except Exception:  # the thread must outlive whatever a client raises
            logger.exception("bug while grading")
            self._on_drop(EventKind.GRADING, len(jobs))
            return
        if self._away:
            logger.info("answers are graded again")
        self._away = False
        for job in jobs:
            count = len(job.texts)
            job.then(scores[:count])
            scores = scores[count:]


def _size(job: Job) -> int:
    return sum(len(t.completion) + sum(len(turn["content"]) for turn in t.prompt) for t in job.texts)


def read_scores(answer: Any, count: int) -> list[Scores]:
    """The scores of `count` samples with the ids 0, 1, …; empty where there is none. Raises ValueError for nonsense."""
    rows = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise ValueError("the scoring service answers without `scores`: is rewards.url right?")
    by_id = {str(row.get("id")): row.get("scores") for row in rows if isinstance(row, dict)}
    return [_finite(by_id.get(str(place))) for place in range(count)]


def _finite(scores: Any) -> Scores:
    if not isinstance(scores, dict):
        return {}
    usable = {
        name: float(value)
        for name, value in scores.items()
        if isinstance(name, str) and NAME.fullmatch(name) and type(value) in (int, float) and math.isfinite(value)
    }
    return dict(list(usable.items())[:MOST_GRADERS])
