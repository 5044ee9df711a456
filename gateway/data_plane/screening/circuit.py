"""Whether the guard is asked at all: after failures in a row it is left alone, then one request tries again."""

from __future__ import annotations

import logging

FAILURES = 3  # in a row
PAUSES = (0.25, 2.0)  # seconds it is left alone: at first, at most

logger = logging.getLogger("understudy.screening")


class Circuit:
    """Times are seconds of the loop's clock. Says once in the log that the guard is away, and once that it is back."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._pause = 0.0
        self._probing = False
        self._said = ""

    @property
    def open(self) -> bool:
        """True while the guard counts as away."""
        return self._failures >= FAILURES

    def admits(self, now: float) -> bool:
        """May a request be sent? While it is open and the pause is over: one."""
        if not self.open:
            return True
        if now < self._until or self._probing:
            return False
        self._probing = True
        return True

    def failed(self, reason: str, now: float) -> None:
        """A request got no answer, or none that is one."""
        self.complain(reason)
        self._failures += 1
        if self.open and now >= self._until:
            self._pause = min(max(2 * self._pause, PAUSES[0]), PAUSES[1])
            self._until = now + self._pause
        self._probing = False

    def worked(self) -> None:
        """The guard has answered."""
        if self._said:
            logger.info("the guard answers again")
        self._failures, self._pause, self._probing, self._said = 0, 0.0, False, ""

    def gave_up(self) -> None:
        """A request was taken back before its answer: if it was the one that tried, another may."""
        self._probing = False

    def complain(self, reason: str) -> None:
        """Say in the log what is wrong, unless the same was said last."""
        if reason != self._said:
            logger.error("there are no verdicts: %s", reason)
            self._said = reason
