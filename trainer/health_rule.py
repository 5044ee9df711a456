"""When a run counts as collapsed: its reward has risen, and gold has fallen. Pure: numbers in, a verdict out.

Looks at the same held-out prompts give paired differences. A claim is tested at every look, against the best of the
looks before, so its error is spent over looks and references: look t (1, 2, …) may use α_t = α·6/(π²t²) in all, and
each of the t earlier looks α_t/t of it. By the union bound the chance that a run in which nothing fell is ever called
collapsed is at most α, whatever the number of looks. Each bound is Student's for paired differences: at the few dozen
prompts of a look it finds falls half as large as bounds that are exact at any size (betting, Hoeffding) do; a test
simulates that α holds.

The rule is Goodhart's law as Gao, Schulman & Hilton measure it ("Scaling laws for reward model overoptimization",
ICML 2023): the proxy goes on rising after gold has turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from trainer.rl_settings import HealthSettings

Floats = NDArray[np.float64]
Status = Literal["ok", "suspect", "collapsed", "unknown"]

FEWEST_PAIRS = 8
"""Prompts scored at both looks, below which nothing is concluded."""

SMALLEST_SPREAD = 0.05
"""Standard deviations below this are taken for it: a start without any spread would make every change infinite."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the held-out prompts saw. `reward` and `gold`: one value per prompt, None where missing.

    `signs`: cheap signs of degenerate text, by name (see SIGNS).
    """

    step: int
    reward: tuple[float | None, ...]
    gold: tuple[float | None, ...]
    signs: Mapping[str, float] = field(default_factory=dict)

    def mean(self, of: Literal["reward", "gold"]) -> float | None:
        """Mean over the prompts that were scored; None when there are none."""
        scored = [value for value in getattr(self, of) if value is not None]
        return sum(scored) / len(scored) if scored else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the looks so far say. `since`: the step of gold's best look, after which it fell."""

    status: Status
    reason: str
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Sign:
    """A corroborator: `name` has moved from `start` to `now` the way degenerate text moves it."""

    name: str
    start: float
    now: float

    def __str__(self) -> str:
        return f"{self.name} {self.start:.3g} → {self.now:.3g}"


SIGNS: Mapping[str, tuple[float, float]] = {
    "completion_tokens": (1.5, 2.0),
    "duplicate_4gram": (1.0, 0.1),
    "entropy": (0.5, 0.0),
    "distinct_4": (0.5, 0.0),
}
"""name → (factor, offset): grown beyond start·factor + offset, or, for a factor below 1, fallen below it."""


def judge(looks: Sequence[Look], settings: HealthSettings) -> Verdict:
    """The verdict after the last of `looks` (in order of steps). "unknown" where nothing can be concluded."""
    if len(looks) < 2:
        return Verdict("unknown", "there has been one look at most")
    first, now, earlier = looks[0], looks[-1], looks[:-1]
    signs = degenerate(first, now)
    seen = f"; corroborated by {', '.join(map(str, signs))}" if signs else ""
    best = _best(earlier)
    if best is None or now.mean("gold") is None:
        return _without_gold(first, now, signs)
    level = settings.alpha * 6 / (math.pi * len(earlier)) ** 2
    fall = upper_bound(differences(now.gold, best.gold), level / len(earlier))
    rise = lower_bound(differences(now.reward, first.reward), level)
    if fall is None or rise is None:
        return Verdict("unknown", f"fewer than {FEWEST_PAIRS} held-out prompts were scored at both looks")
    if fall < -settings.gold_drop and rise > 0 and _reward_held(now, best, settings.reward_slack):
        reason = (
            f"gold {best.mean('gold'):.3f} → {now.mean('gold'):.3f} since step {best.step} (fell by more than "
            f"{-fall:.3f}) while the reward {first.mean('reward'):.3f} → {now.mean('reward'):.3f}{seen}"
        )
        return Verdict("collapsed", reason, best.step)
    if len(signs) > 1 and rise > 0:
        return Verdict("suspect", f"the reward rises and texts degenerate: {', '.join(map(str, signs))}")
    return Verdict("ok", f"gold {now.mean('gold'):.3f}, best {best.mean('gold'):.3f} at step {best.step}")


def _without_gold(first: Look, now: Look, signs: Sequence[Sign]) -> Verdict:
    before, after = first.mean("reward"), now.mean("reward")
    if len(signs) > 1 and before is not None and after is not None and after > before:
        return Verdict("suspect", f"the reward rises and texts degenerate: {', '.join(map(str, signs))}")
    return Verdict("unknown", "no gold grader has scored the held-out prompts")


def _best(looks: Sequence[Look]) -> Look | None:
    scored = [(mean, look) for look in looks if (mean := look.mean("gold")) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _reward_held(now: Look, best: Look, slack: float) -> bool:
    """Whether the reward is still where it was at gold's best look, within `slack` standard deviations."""
    before, after = best.mean("reward"), now.mean("reward")
    return before is not None and after is not None and after >= before - slack * spread(best.reward)


def degenerate(first: Look, now: Look) -> list[Sign]:
    """The corroborators that have moved beyond their thresholds since the first look."""
    found = []
    for name, (factor, offset) in SIGNS.items():
        if name in first.signs and name in now.signs:
            start, value = first.signs[name], now.signs[name]
            limit = start * factor + offset
            if (value > limit) if factor >= 1 else (value < limit):
                found.append(Sign(name, start, value))
    return found


def differences(now: Sequence[float | None], then: Sequence[float | None]) -> Floats:
    """now − then of the prompts that both scored, in [−1, 1]. Shape (pairs,).

    Where a value lies outside 0..1 the signs of the differences stand for them all: they need no scale.
    """
    pairs = [(a, b) for a, b in zip(now, then, strict=True) if a is not None and b is not None]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    moved = values[:, 0] - values[:, 1]
    bounded = bool(((values >= 0) & (values <= 1)).all())
    result: Floats = moved if bounded else np.sign(moved)
    return result


def upper_bound(moved: Floats, level: float) -> float | None:
    """The mean difference lies below this, with error `level`. None for fewer than FEWEST_PAIRS."""
    if moved.size < FEWEST_PAIRS:
        return None
    quantile = float(stdtrit(moved.size - 1, 1 - level))
    return float(moved.mean()) + quantile * float(moved.std(ddof=1)) / math.sqrt(moved.size)


def lower_bound(moved: Floats, level: float) -> float | None:
    """The mean difference lies above this, with error `level`. None for fewer than FEWEST_PAIRS."""
    mirrored = upper_bound(-moved, level)
    return None if mirrored is None else -mirrored


def spread(values: Sequence[float | None], smallest: float = SMALLEST_SPREAD) -> float:
    """Standard deviation over prompts, at least `smallest`."""
    scored = [value for value in values if value is not None]
    return max(float(np.std(scored)), smallest) if scored else smallest


def alignment_tax(first: Look, now: Look) -> float | None:
    """How much more the reward has risen than gold, in standard deviations of the start policy. None without both.

    tax = (r − r₀)/s_r − (g − g₀)/s_g; 0 at the start by definition, growing when the reward is gamed. Normalising by
    the start policy is Gao, Schulman & Hilton's (ICML 2023, section 2.2); the name is the field's for the gap between
    automated reward and quality.
    """
    means = [look.mean(of) for of in ("reward", "gold") for look in (now, first)]
    if any(mean is None for mean in means):
        return None
    reward, reward_start, gold, gold_start = (float(mean) for mean in means if mean is not None)
    return (reward - reward_start) / spread(first.reward) - (gold - gold_start) / spread(first.gold)
