"""How fast one engine is: measured points, and what lies between them. Nothing is said beyond the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from adapters.errors import ConfigError

MOST = 65536  # requests at once on one engine


@dataclass(frozen=True, slots=True)
class Point:
    """One engine with `concurrency` requests running all the time.

    `tokens_per_second`: output tokens of all of them together; `first_token`: seconds from a request's start (not from
    its arrival: waiting for a place is not in it) to its first token.
    """

    concurrency: float
    tokens_per_second: float
    first_token: float = 0.0

    @property
    def per_token(self) -> float:
        """Seconds between two tokens of one answer, its share of the prompt's work included."""
        return self.concurrency / self.tokens_per_second

    def service(self, output_tokens: float) -> float:
        """Seconds that a request with so many output tokens holds its place: Little's law, S = k / X (Little 1961)."""
        return self.concurrency * output_tokens / self.tokens_per_second


@dataclass(frozen=True, slots=True)
class Speed:
    """Points in order of concurrency."""

    points: tuple[Point, ...]

    @property
    def most(self) -> int:
        """The largest concurrency that was measured."""
        return int(self.points[-1].concurrency)

    def at(self, concurrency: float) -> Point:
        """Between two points straight; below the first one with the time per token of the first (it is no slower)."""
        first = self.points[0]
        if concurrency <= first.concurrency:
            return Point(concurrency, concurrency / first.per_token, first.first_token)
        for low, high in zip(self.points, self.points[1:], strict=False):
            if concurrency <= high.concurrency:
                share = (concurrency - low.concurrency) / (high.concurrency - low.concurrency)
                per_token = low.per_token + share * (high.per_token - low.per_token)
                first_token = low.first_token + share * (high.first_token - low.first_token)
                return Point(concurrency, concurrency / per_token, first_token)
        raise ValueError(f"{concurrency} at once was not measured, {self.most} at most")


def speed_of(points: Iterable[Point]) -> Speed:
    """Raises ConfigError when there are none, when one is no measurement, or two have the same concurrency."""
    ordered = tuple(sorted(points, key=lambda point: point.concurrency))
    if not ordered:
        raise ConfigError("no engine was measured: give --engine CONCURRENCY:TOKENS_PER_SECOND, or --measure")
    for point in ordered:
        sound = 1 <= point.concurrency <= MOST and 0 < point.tokens_per_second < math.inf
        if not (sound and 0 <= point.first_token < math.inf):
            raise ConfigError(f"an engine's point needs a concurrency from 1 to {MOST} and positive tokens per second")
    if len({point.concurrency for point in ordered}) < len(ordered):
        raise ConfigError("two points have the same concurrency: give each once")
    return Speed(ordered)


def parse_point(text: str) -> Point:
    """'32:1800' or '32:1800:0.25' → Point: requests at once, output tokens a second in all, seconds to the first token.

    Raises ConfigError.
    """
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3):
        raise ConfigError(f"--engine {text}: write CONCURRENCY:TOKENS_PER_SECOND[:FIRST_TOKEN], such as 32:1800:0.2")
    return Point(*numbers)
