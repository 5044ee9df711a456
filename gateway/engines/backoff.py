"""How long to wait before starting something again that ended."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubles from `first` to `most` seconds, ±25 % so that many do not return at once.

    Starts over when the thing stayed up for `stable` seconds.
    """

    def __init__(
        self,
        first: float = 1.0,
        most: float = 60.0,
        stable: float = 60.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._most = most
        self._stable = stable
        self._uniform = uniform
        self.failures = 0

    def after(self, uptime: float) -> float:
        """Seconds to wait now that it ended after `uptime` seconds."""
        self.failures = 1 if uptime >= self._stable else self.failures + 1
        delay = min(self._most, self._first * 2.0 ** min(self.failures - 1, 30))
        return delay * self._uniform(0.75, 1.25)
