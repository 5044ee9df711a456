"""From records to evidence: reads on where it stopped, finds each unit's first bad event, and keeps the harm tests.

Bad events are written down (table bad_events) before they are acted on, so that another controller comes to the same
conclusion. What is read twice changes nothing: a unit counts once per metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from adapters.evidence_store import EvidenceStore, Occurrence, StoredEvent
from gateway.rollout.arms import CANDIDATE, SHADOW, STABLE, Course, odds, odds_of_one
from gateway.rollout.plan import Plan
from monitors.analysis import BadEvent, Finding, HarmTests, JudgeSpec

OVERLAP = 1000         # ids read again each time: writers commit out of order
LOOK_BACK = 10.0       # seconds after which a record that was being written is certainly visible …
EVERY = 2.0            # … and how often that far is read again
COMPARED = frozenset({CANDIDATE, STABLE, SHADOW})
# What can happen to a mirrored answer as to a real one: nobody rates it, and it is neither streamed nor in a hurry.
MIRRORED = frozenset({"error", "empty", "non_finite", "guard", "unscreened"})


def objectives(plan: Plan) -> dict[str, float]:
    """The plan's bad events that show in answers: metric → objective in seconds (0 where it has none)."""
    return {m.name: m.objective for m in plan.metrics if m.kind == "event" and m.name != "thumbs_down"}


@dataclass
class _Ends:
    """Where the two tables ended at some time (seconds of the monotonic clock)."""

    at: float
    answers: int
    words: int


@dataclass
class OneCandidate:
    """The bad events of one candidate and of stable, by metric, and what the tests say. `part`: of the weight."""

    tests: HarmTests
    number: int
    part: float
    events: dict[str, list[BadEvent]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def take(self, stored: list[StoredEvent]) -> None:
        """Look at what is new; other candidates' events are nothing to this one."""
        for event in stored:
            if event.candidate in (0, self.number):
                share = event.share if self.part == 1 else odds_of_one(event.share, self.part)
                self.events.setdefault(event.metric, []).append(BadEvent(event.candidate > 0, share))
        self.findings = self.tests.update(self.events)


@dataclass
class Evidence:
    """The bad events of one rollout, as far as they are read, and what the sequential tests say about them.

    `spec`: of one candidate. Each has its own tests against stable.
    """

    store: EvidenceStore
    spec: JudgeSpec
    monotonic: Callable[[], float]
    start: tuple[int, int] = (0, 0)                                       # ids from which on nothing is read yet
    of: dict[str, OneCandidate] = field(default_factory=dict)             # by version
    _ends: list[_Ends] = field(default_factory=list)
    _last_event: int = 0
    _seen: set[tuple[str, bytes]] = field(default_factory=set)
    _looked_back: float = -1e9

    @property
    def cursor(self) -> tuple[int, int]:
        """Up to where everything is certainly read: where another controller should begin."""
        old = [ends for ends in self._ends if self.monotonic() - ends.at >= LOOK_BACK]
        return (old[-1].answers, old[-1].words) if old else self.start

    def read(self, course: Course) -> bool:
        """Read what is new. True when the tests saw new events. Raises DatabaseError."""
        now = self.monotonic()
        answers, words, _ = self.store.ends()
        after = self._after(now)
        found: list[Occurrence] = []
        if answers > after[0]:
            found += self.store.bad_answers(course.rollout.id, after[0], objectives(course.plan))
        if words > after[1] and any(metric.name == "thumbs_down" for metric in course.plan.metrics):
            found += self.store.bad_words(course.rollout.id, after[1])
        self._ends = [ends for ends in self._ends if now - ends.at < 2 * LOOK_BACK] + [_Ends(now, answers, words)]
        wrote = self._write(course, found)
        return self._test(course) if wrote or not self.of else False

    def _after(self, now: float) -> tuple[int, int]:
        """Mostly a little before the end of the last reading; now and then as far back as the cursor."""
        if not self._ends or now - self._looked_back >= EVERY:
            self._looked_back = now
            return self.cursor
        last = self._ends[-1]
        return max(last.answers - OVERLAP, self.start[0]), max(last.words - OVERLAP, self.start[1])

    def _write(self, course: Course, found: list[Occurrence]) -> bool:
        """Write down what is its unit's first, as far as is known here. True when there was any."""
        rows = []
        for occurrence in found:
            key = (occurrence.metric, bytes(occurrence.unit))
            share = _share(occurrence, course)
            if share is None or key in self._seen or _warming(occurrence, course):
                continue
            self._seen.add(key)
            rows.append({
                "rollout": course.rollout.id, "metric": occurrence.metric, "unit": occurrence.unit,
                "candidate": course.rollout.number_of(occurrence.version) if occurrence.arm != STABLE else 0,
                "share": share, "at": occurrence.at, "response_id": occurrence.response_id,
            })  # fmt: skip
        self.store.add_bad_events(rows)
        return bool(rows)

    def _test(self, course: Course) -> bool:
        rollout = course.rollout
        for version in () if self.of else rollout.candidates:
            tests = HarmTests(self.spec)
            self.of[version] = OneCandidate(tests, rollout.number_of(version), course.part(version))
        stored = self.store.bad_events(rollout.id, self._last_event)
        self._last_event = stored[-1].id if stored else self._last_event
        for one in self.of.values():
            one.take(stored)
        return bool(stored)


def _share(occurrence: Occurrence, course: Course) -> float | None:
    """ρ of the answer; None where it is not compared. Before the ramp stable is compared with its mirrors."""
    if occurrence.arm not in COMPARED:
        return None
    plan = course.plan
    if occurrence.step == 0:
        comparable = plan.shadow is not None and occurrence.metric in MIRRORED
        return odds(SHADOW, plan.shadow.sample, plan) if plan.shadow and comparable else None
    part = course.part(occurrence.version) if occurrence.arm == CANDIDATE else 1.0
    return odds(occurrence.arm, occurrence.share, plan, part)


def _warming(occurrence: Occurrence, course: Course) -> bool:
    """A version is slow at first: for some time after its first answers the metric does not count, on either arm."""
    warmup = next((metric.warmup for metric in course.plan.metrics if metric.name == occurrence.metric), 0.0)
    return warmup > 0 and occurrence.at < course.memory.exposed_at + warmup
