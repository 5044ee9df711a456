"""One rollout as a controller watches it: its row, its evidence, and the latest judgement of exactly this step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.errors import ConfigError, UnderstudyError
from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.rollouts import Phase, Rollout
from gateway.rollout.arms import Course
from gateway.rollout.decide import StableArm
from gateway.rollout.evidence import Evidence
from gateway.rollout.guard import StableGuard
from gateway.rollout.measure import means, measure_each, rules
from gateway.rollout.memory import Memory
from gateway.rollout.plan import from_json
from gateway.rollout.rivals import Judged, conclude
from monitors.analysis import Analysis, Finding, JudgeSpec, Measurements
from monitors.analysis.rivals import harm_share
from monitors.collapse import Verdict

GUARD_EVERY = 1.0      # seconds between looks at all of stable's answers
JUDGE_EVERY = 2.0      # seconds between judgements of a step …
JUDGE_SHARE = 0.05     # … or longer, so that they take at most this share of the time

log = logging.getLogger("understudy.rollout")


class Watched:
    """Replaced in part at every tick. `read` runs in a thread, everything else in the loop."""

    def __init__(
        self, course: Course, store: EvidenceStore, sums: EvidenceSums, monotonic: Callable[[], float]
    ) -> None:
        self.course = course
        self.evidence = Evidence(store, _harm_spec(course), monotonic, course.memory.cursor)
        self.standings = {version: Standing(first) for version, first in _first_ttfts(course).items()}
        self.stable = StableArm()
        self.judging: asyncio.Task[None] | None = None
        self.saved_at = 0.0
        self.reported: set[str] = set()                      # dropped candidates with a report
        self.judged: tuple[int, Judged] | None = None        # generation of the row, and the judgement
        self.means: Mapping[str, float] = dict(course.memory.reference)
        self.collapse: Verdict | None = None                 # of the rewards of its candidate
        self._store = store
        self._sums = sums
        self._monotonic = monotonic
        self._guard: StableGuard | None = None
        self._guarded_at = self._judged_at = -1e9
        self._took = 0.0

    @property
    def now(self) -> Judged | None:
        """The judgement of exactly this row; None until there is one."""
        fits = self.judged is not None and self.judged[0] == self.course.rollout.generation
        return self.judged[1] if self.judged and fits else None

    @property
    def analysis(self) -> Analysis | None:
        """The judgement of this step and weight, over all candidates; None until there is one."""
        return self.now.together if self.now else None

    def analysis_of(self, version: str) -> Analysis | None:
        """A candidate's own."""
        return self.now.each.get(version) if self.now else None

    def findings_of(self, version: str) -> tuple[Finding, ...]:
        """What the sequential tests over its bad events say."""
        one = self.evidence.of.get(version)
        return one.findings if one else ()

    @property
    def units(self) -> Mapping[str, int]:
        """Of the first candidate and of stable."""
        return self.standings[self.course.rollout.candidate].units

    @property
    def first_ttft(self) -> float | None:
        """Of the first candidate."""
        return self.standings[self.course.rollout.candidate].first_ttft

    def replaced(self, course: Course) -> None:
        """The row changed, by whomever."""
        lifted = self.course.memory.hold is not None and course.memory.hold is None
        self.course = course
        if lifted and self._guard is not None:
            self._guard.forget()
            self.stable = StableArm()

    def read(self) -> None:
        """New bad events; and now and then stable's answers. Raises DatabaseError."""
        self.evidence.read(self.course)
        if self._monotonic() - self._guarded_at >= GUARD_EVERY:
            self._guarded_at = self._monotonic()
            if self._guard is None:
                self._guard = StableGuard(self._store, self.course)
            self.stable = self._guard.look(self.course)
            for version, standing in self.standings.items():
                if standing.first_ttft is None and self.course.rollout.phase is Phase.RAMP:
                    standing.first_ttft = self._store.first_ttft(self.course.rollout.id, version)

    def judge_if_due(self) -> None:
        """Begin a judgement in the background unless one is under way or was made just now."""
        spec = rules(self.course)
        pause = max(JUDGE_EVERY, self._took / JUDGE_SHARE)
        if spec is None or self.judging is not None or self._monotonic() - self._judged_at < pause:
            return
        self._judged_at = self._monotonic()
        self.judging = asyncio.create_task(self._judge(spec, self.course))

    def remembered(self) -> dict[str, Any]:
        """What of all this goes into the row's memory."""
        kept: dict[str, Any] = {"cursor": self.evidence.cursor, "seen": self.seen()}
        if self._guard is not None:
            kept["stable"] = self._guard.state
        return kept

    def seen(self) -> dict[str, Any]:
        """The latest numbers, as listings show them: the first candidate's, and where there are several every one's."""
        rollout = self.course.rollout
        seen = self._seen(rollout.candidate)
        collapse = self.collapse.to_json() if self.collapse else (self.course.memory.seen or {}).get("collapse")
        seen["collapse"] = collapse
        if rollout.rivals:
            seen["rivals"] = {version: self._seen(version) for version in rollout.candidates}
        return seen

    def _seen(self, version: str) -> dict[str, Any]:
        analysis, standing = self.analysis_of(version), self.standings[version]
        return {
            "harm": [_finding(finding) for finding in self.findings_of(version)], "units": dict(standing.units),
            "analysis": analysis.to_json() if analysis else None, "first_ttft": standing.first_ttft,
        }  # fmt: skip

    def close(self) -> None:
        """Stop what is under way."""
        if self.judging is not None:
            self.judging.cancel()

    async def _judge(self, spec: JudgeSpec, course: Course) -> None:
        began = self._monotonic()
        try:
            measured, judged = await asyncio.to_thread(self._measure_and_judge, spec, course)
            self.judged = (course.rollout.generation, judged)
            for version, one in measured.items():
                self.standings[version].units = {"candidate": one.candidate_units, "stable": one.stable_units}
            if course.rollout.phase is Phase.RAMP and measured:
                self.means = means(next(iter(measured.values())))  # stable's, the same for all
        except UnderstudyError as error:  # the database is away: nothing is concluded
            log.warning("rollout %d cannot be judged now: %s", course.rollout.id, error)
        except Exception:  # a bug in a statistic: nothing is concluded, and nobody is promoted
            log.exception("rollout %d could not be judged", course.rollout.id)
        finally:
            self.judging = None
            self._took = self._monotonic() - began

    def _measure_and_judge(self, spec: JudgeSpec, course: Course) -> tuple[dict[str, Measurements], Judged]:
        arms = self._store.arms(course.rollout.id)
        events = {
            version: {name: tuple(found) for name, found in one.events.items()}
            for version, one in self.evidence.of.items()
        }
        measured = measure_each(self._sums, course, arms, events)
        return measured, conclude(course, spec, measured)


def course_of(row: Rollout) -> Course | None:
    """None for a row that this release cannot read: its route is served by stable alone."""
    try:
        return Course(row, from_json(row.plan), Memory.from_state(row.state))
    except (ConfigError, TypeError, ValueError, KeyError) as error:
        log.error("rollout %d cannot be read and stands still: %s", row.id, error)
        return None


@dataclass
class Standing:
    """What listings show of one candidate beside its tests. `units`: of it and of stable, in this step."""

    first_ttft: float | None = None
    units: Mapping[str, int] = field(default_factory=dict)


def _first_ttfts(course: Course) -> dict[str, float | None]:
    """Of every candidate, as far as it was known."""
    seen = course.memory.seen or {}
    known = {course.rollout.candidate: seen, **seen.get("rivals", {})}
    return {version: known.get(version, {}).get("first_ttft") for version in course.rollout.candidates}


def _harm_spec(course: Course) -> JudgeSpec:
    """Harm tests run over the whole rollout: their rules do not depend on the step."""
    return harm_share(course.plan.judge_spec(0), len(course.rollout.candidates))


def _finding(finding: Finding) -> dict[str, Any]:
    body = asdict(finding)
    return {name: body[name] for name in ("metric", "test", "verdict", "reason", "log_e", "threshold", "n")}
