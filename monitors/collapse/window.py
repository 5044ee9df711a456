"""Means over the last so many values, O(1) a value, with a state that comes back bit for bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Window:
    """The last `size` values and their sum."""

    def __init__(self, size: int, values: Sequence[float] = (), total: float = 0.0) -> None:
        self._values = deque(values, maxlen=size)
        self._total = total            # kept, not summed anew: a restored window goes on with the same rounding

    def add(self, value: float) -> None:
        """One more; the oldest goes when it is full."""
        if len(self._values) == self._values.maxlen:
            self._total -= self._values[0]
        self._values.append(value)
        self._total += value

    def __len__(self) -> int:
        return len(self._values)

    @property
    def mean(self) -> float:
        """0 for none."""
        return self._total / len(self._values) if self._values else 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return self._total

    def state(self) -> list[object]:
        """[values, sum]: the arguments to restore it with."""
        return [list(self._values), self._total]
