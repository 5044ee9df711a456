"""What the guard service counts."""

from __future__ import annotations

from gateway.service_metrics import ServiceMetrics
from monitors import conventions
from monitors.llama_guard.types import Result

ROLES = ("user", "assistant")


class GuardMetrics(ServiceMetrics):
    """Verdicts by role, time of requests and passes, sizes of passes, what waits and what was refused."""

    def __init__(self) -> None:
        super().__init__()
        self._verdicts = self.made(conventions.GUARD_VERDICTS)
        self._duration = self.made(conventions.GUARD_DURATION)
        self._passes = self.made(conventions.GUARD_PASS_DURATION)
        self._batch = self.made(conventions.GUARD_BATCH)
        self._waiting = self.made(conventions.GUARD_WAITING)
        self._refused = self.made(conventions.GUARD_REFUSED)
        for role in ROLES:  # series exist from the start: a rate needs a first 0
            for verdict in ("safe", "unsafe", "unavailable"):
                self._verdicts.labels(role, verdict)

    def judged(self, role: str, result: Result) -> None:
        """One result that went out."""
        self._verdicts.labels(role, result.verdict).inc()

    def took(self, seconds: float) -> None:
        """One request, from its last byte in to its result."""
        self._duration.observe(seconds)

    def passed(self, prompts: int, seconds: float) -> None:
        """One pass over a batch; called from the back end's thread."""
        self._batch.observe(prompts)
        self._passes.observe(seconds)

    def waiting(self, prompts: int) -> None:
        """How many prompts wait now."""
        self._waiting.set(prompts)

    def refused(self) -> None:
        """One request was answered with 503."""
        self._refused.inc()
