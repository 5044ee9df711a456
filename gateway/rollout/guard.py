"""Change detectors: stable against its own past while a rollout is open, and a promoted version against stable's.

A comparison of two arms that share an engine is blind to what harms both; and after a promotion there is nothing to
compare with. Both are Shiryaev–Roberts e-detectors (monitors.stats.changepoint) on 0/1 or on 1 − score. An alarm is
expected once in RUN_LENGTH observations at the tolerated mean, and far more rarely below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.evidence_store import MOST_ROWS, EvidenceStore
from gateway.rollout.arms import STABLE, Course
from gateway.rollout.decide import StableArm
from gateway.rollout.memory import HoldKind
from gateway.rollout.plan import Plan
from monitors.stats.changepoint import ShiryaevRoberts

RUN_LENGTH = 1e4               # observations between false alarms at the tolerated mean (statistics.md, j)
WINDOW = 1800.0                # seconds before the rollout that stable is compared with
FLOOR = 0.02                   # a rate of bad answers that is tolerated in any case
SCORE_MARGIN = 0.05            # a fall of mean satisfaction or reward that is tolerated after a promotion
SETTLED = 1.0                  # seconds after the candidate was taken off, for what was under way
_BETS = (0.1, 0.3, 0.9)        # as shares of the largest possible bet, 1/mean
COUNTS_AGAIN = 10.0            # seconds after which a unit's next bad answer counts: no single user raises an alarm
DAY = 86400.0                  # seconds after which a unit's next word counts
MOST_UNITS = 100_000           # remembered
_ALWAYS = ("error", "truncated", "empty", "non_finite")


def guarded(plan: Plan) -> dict[str, float]:
    """Metrics of answers that are watched over time, with the plan's objectives in seconds."""
    slow = {m.name: m.objective for m in plan.metrics if m.name in ("slow_ttft", "slow_duration")}
    return {**dict.fromkeys(_ALWAYS, 0.0), **slow}


def tolerated(answers: int, bad: float) -> float:
    """The mean above which a rate counts as worse than in a window with so many answers and bad ones: twice its rate.

    With few answers before, more is tolerated: (bad + 1) / (answers + 20) instead of the rate.
    """
    return min(0.5, max(FLOOR, 2.0 * (bad + 1) / (answers + 20)))


@dataclass
class Detectors:
    """One detector per metric; its whole state is plain numbers. `limits`: the tolerated means."""

    limits: Mapping[str, float]
    detectors: dict[str, ShiryaevRoberts] = field(default_factory=dict)

    @classmethod
    def restored(cls, limits: Mapping[str, float], statistics: Mapping[str, Sequence[float]]) -> Detectors:
        """From what `statistics` said."""
        made = cls(limits)
        for name, limit in limits.items():
            detector = ShiryaevRoberts(limit, tuple(bet / limit for bet in _BETS), RUN_LENGTH)
            if len(statistics.get(name, ())) == len(_BETS):
                detector.statistics = list(statistics[name])
                detector.alarm = detector.value >= RUN_LENGTH
            made.detectors[name] = detector
        return made

    @property
    def statistics(self) -> dict[str, list[float]]:
        """What to remember."""
        return {name: detector.statistics for name, detector in self.detectors.items()}

    def observe(self, name: str, x: float) -> None:
        """One observation in [0, 1]; of a metric that is not watched: nothing."""
        if (detector := self.detectors.get(name)) and not detector.alarm:
            detector.observe(x)

    @property
    def alarm(self) -> str:
        """The metric whose detector has alarmed; empty for none."""
        return next((name for name, detector in self.detectors.items() if detector.alarm), "")


class Seldom:
    """Lets a unit count once in a while. `seconds`: how long it does not count again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[tuple[str, bytes], float] = {}

    def counts(self, name: str, unit: bytes, at: float) -> bool:
        """True for the first time in so many seconds."""
        key = (name, bytes(unit))
        if abs(at - self._last.get(key, -math.inf)) < self._seconds:
            return False
        self._last.pop(key, None)
        self._last[key] = at
        while len(self._last) > MOST_UNITS:
            del self._last[next(iter(self._last))]
        return True


class StableGuard:
    """Watches the stable arm of one open rollout. Not thread-safe; `look` reads the database."""

    def __init__(self, store: EvidenceStore, course: Course) -> None:
        self._store = store
        self._metrics = guarded(course.plan)
        known = course.memory.stable
        limits = known.get("limits") or self._before(course)
        self._cursor = int(known.get("cursor") or course.memory.cursor[0])
        self._detectors = Detectors.restored(limits, known.get("statistics", {}))
        self._seldom = Seldom(COUNTS_AGAIN)

    def look(self, course: Course) -> StableArm:
        """Read stable's new answers. Raises DatabaseError."""
        arms = self._store.arms(course.rollout.id)
        mine = [row.id for row in arms.values() if row.arm == STABLE]
        until = self._store.ends()[0]
        rows = self._store.answers(mine, self._cursor, until, self._metrics)
        self._cursor = rows[-1][0] if len(rows) >= MOST_ROWS else max(until, self._cursor)
        _observe(self._detectors, self._metrics, rows, self._seldom)
        worse = self._detectors.alarm
        if not worse:
            return StableArm()
        limit = self._detectors.limits[worse]
        hold = course.memory.hold
        answers, bad = 0, {worse: 0}
        if hold is not None and hold.kind is HoldKind.STABLE_ARM:
            # Of the time since then only the latter half: what was under way, or queued, may take its time to end.
            off = hold.at + SETTLED
            since = off + max(0.0, course.memory.ticked_at - off) / 2
            answers, bad = self._store.counts(mine, since, {worse: self._metrics[worse]})
        reason = f"{worse} above {limit:.1%} of its answers, tolerated from its window before"
        return StableArm(worse, reason, answers, bad[worse], limit)

    def forget(self) -> None:
        """Begin anew: an operator lets the candidate serve again."""
        self._detectors = Detectors.restored(self._detectors.limits, {})

    @property
    def state(self) -> dict[str, Any]:
        """What to remember."""
        detectors = self._detectors
        return {"cursor": self._cursor, "limits": dict(detectors.limits), "statistics": detectors.statistics}

    def _before(self, course: Course) -> dict[str, float]:
        rollout = course.rollout
        window = (rollout.started_at - WINDOW, rollout.started_at)
        answers, bad = self._store.window(rollout.route, rollout.stable, *window, self._metrics)
        return {name: tolerated(answers, bad[name]) for name in self._metrics}


class AfterWatch:
    """Watches a promoted version for the bake time: its answers, feedback and scores, against stable's means before."""

    def __init__(self, store: EvidenceStore, course: Course) -> None:
        self._store = store
        self._metrics = guarded(course.plan)
        known = course.memory.after
        self._cursors = list(known.get("cursors", (0, 0, 0)))
        self._detectors = Detectors.restored(_limits(course.memory.reference), known.get("statistics", {}))
        self._seldom, self._daily = Seldom(COUNTS_AGAIN), Seldom(DAY)

    def look(self, course: Course) -> str:
        """What got worse, in one sentence; empty for nothing. Raises DatabaseError."""
        mine = self._store.served(course.rollout.route, course.rollout.candidate)
        ends = self._store.ends()
        answers = self._store.answers(mine, self._cursors[0], ends[0], self._metrics)
        _observe(self._detectors, self._metrics, answers, self._seldom)
        words = self._store.words(mine, self._cursors[1], ends[1])
        said = (score for _, at, unit, score in words if self._daily.counts("satisfaction", unit, at))
        self._observe_scores(("satisfaction", score) for score in said)
        scores = self._store.scored(mine, self._cursors[2], ends[2])
        graded = [(metric, value) for _, metric, value in scores if not metric.startswith("text.")]
        self._observe_scores((_reward(metric), value) for metric, value in graded)
        self._observe_scores(("reward", value) for _, value in graded)
        read: list[list[tuple[Any, ...]]] = [answers, [*words], [*scores]]
        self._cursors = [rows[-1][0] if len(rows) >= MOST_ROWS else end for rows, end in zip(read, ends, strict=True)]
        return self._reason()

    @property
    def state(self) -> dict[str, Any]:
        """What to remember."""
        return {"cursors": self._cursors, "statistics": self._detectors.statistics}

    def _observe_scores(self, values: Iterable[tuple[str, float]]) -> None:
        for name, value in values:
            if 0.0 <= value <= 1.0:  # a grader on another scale has no detector
                self._detectors.observe(name, 1.0 - value)

    def _reason(self) -> str:
        if not (name := self._detectors.alarm):
            return ""
        limit = self._detectors.limits[name]
        if name in self._metrics:
            return f"after the promotion: {name} above {limit:.1%} of the answers"
        return f"after the promotion: mean {name} below {1.0 - limit:.3f}"


def _observe(
    detectors: Detectors, metrics: Mapping[str, float], rows: Iterable[tuple[Any, ...]], seldom: Seldom
) -> None:
    """Rows of EvidenceStore.answers: every good answer, and a unit's bad ones seldom."""
    for _, at, unit, *flags in rows:
        for name, x in zip(metrics, flags, strict=True):
            if not x or seldom.counts(name, unit, at):
                detectors.observe(name, float(x))


def _limits(reference: Mapping[str, float]) -> dict[str, float]:
    """Tolerated means of bad events, and of 1 − score. A metric that stable had no data for is not watched."""
    limits = {}
    for name, mean in reference.items():
        if name in (*_ALWAYS, "slow_ttft", "slow_duration"):
            limits[name] = min(0.5, max(FLOOR, 2.0 * mean))
        elif name in ("satisfaction", "reward") or name.startswith("reward."):
            limits[name] = min(0.99, max(FLOOR, 1.0 - mean + SCORE_MARGIN))
    return limits


def _reward(metric: str) -> str:
    """The name that a plan has for what `scores.metric` says."""
    return metric if metric.startswith("reward.") else f"reward.{metric}"
