"""How many answers are looked at: no more than so many a second."""

from __future__ import annotations


class Allowance:
    """At most `rate` a second, and at most one second's worth at once. One thread only.

    A token bucket kept as one number, the time at which it is full again (the generic cell rate algorithm).
    """

    __slots__ = ("_full_at", "_step")

    def __init__(self, rate: float) -> None:
        self._step = 1.0 / rate
        self._full_at = 0.0

    def take(self, now: float) -> bool:
        """True when one more may be had. `now`: monotonic seconds."""
        full_at = (self._full_at if self._full_at > now else now) + self._step
        if full_at - now > 1.0 + 1e-6:
            return False
        self._full_at = full_at
        return True
