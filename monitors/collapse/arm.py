"""What one version's feedback says lately: of the watched version, or of its live control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monitors.collapse.window import Window

RECENT = 100           # feedbacks in which a reward that follows satisfaction has begun to do so
RATE_BLOCK = 50        # feedbacks that are one step of the feedback rate
RATE_BLOCKS = 6        # steps that the rate is taken over; one that was read at once may be larger
_OVERDISPERSION = 2.0  # as in monitors.collapse.corroborators


class Arm:
    """Windows over the last feedbacks. Rewards in standard deviations of the baseline."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.n = 0
        self.rewards, self.satisfactions, self.taxes = Window(size), Window(size), Window(size)
        self.recent = Window(min(RECENT, size))  # rewards
        self._answers, self._feedbacks = Window(RATE_BLOCKS), Window(RATE_BLOCKS)
        self._block = [0, 0]

    def observe(self, reward: float, satisfaction: float, tax: float) -> None:
        """One feedback."""
        self.n += 1
        self.rewards.add(reward)
        self.recent.add(reward)
        self.satisfactions.add(satisfaction)
        self.taxes.add(tax)

    def traffic(self, answers: int, feedbacks: int) -> None:
        """So many more answers and feedbacks."""
        self._block = [self._block[0] + answers, self._block[1] + feedbacks]
        if self._block[1] >= RATE_BLOCK:
            self._answers.add(float(self._block[0]))
            self._feedbacks.add(float(self._block[1]))
            self._block = [0, 0]

    @property
    def rate(self) -> float | None:
        """Feedbacks per answer; None before there is enough feedback, or where answers are not known."""
        if self._feedbacks.total < RATE_BLOCK * RATE_BLOCKS or self._answers.total <= 0:
            return None
        return self._feedbacks.total / self._answers.total

    def moved(self, before: float, error: float = 0.0) -> float | None:
        """rate / before; None where it is not known. `error`: relative standard error of `before`."""
        rate = self.rate
        if rate is None or before <= 0:
            return None
        ratio = rate / before
        noise = math.sqrt(_OVERDISPERSION / self._feedbacks.total + error * error)
        return ratio if abs(math.log(ratio)) > 2.0 * noise else 1.0

    @property
    def rate_error(self) -> float:
        """Relative standard error of the rate."""
        return math.sqrt(_OVERDISPERSION / self._feedbacks.total) if self._feedbacks.total else math.inf

    def state(self) -> dict[str, Any]:
        """What to remember."""
        names = ("rewards", "satisfactions", "taxes", "recent", "_answers", "_feedbacks")
        return {"n": self.n, "block": list(self._block), **{name: getattr(self, name).state() for name in names}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """From what `state` said."""
        self.n, self._block = state["n"], list(state["block"])
        for name in ("rewards", "satisfactions", "taxes"):
            setattr(self, name, Window(self._size, *state[name]))
        self.recent = Window(min(RECENT, self._size), *state["recent"])
        self._answers, self._feedbacks = (Window(RATE_BLOCKS, *state[name]) for name in ("_answers", "_feedbacks"))
