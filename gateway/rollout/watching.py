"""One rollout as a controller watches it: its row, its evidence, and the latest judgement of exactly this step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from adapters.errors import UnderstudyError
from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.rollouts import Phase
from gateway.rollout.arms import Course
from gateway.rollout.decide import StableArm
from gateway.rollout.evidence import Evidence
from gateway.rollout.guard import StableGuard
from gateway.rollout.measure import means, measure, rules
from monitors.analysis import Analysis, Finding, JudgeSpec, Measurements, judge

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
        self.stable = StableArm()
        self.judging: asyncio.Task[None] | None = None
        self.saved_at = 0.0
        self.judged: tuple[int, Analysis] | None = None      # generation of the row, and the judgement
        self.units: Mapping[str, int] = {}
        self.first_ttft: float | None = (course.memory.seen or {}).get("first_ttft")
        self.means: Mapping[str, float] = dict(course.memory.reference)
        self._store = store
        self._sums = sums
        self._monotonic = monotonic
        self._guard: StableGuard | None = None
        self._guarded_at = self._judged_at = -1e9
        self._took = 0.0

    @property
    def analysis(self) -> Analysis | None:
        """The judgement of this step and weight; None until there is one."""
        fits = self.judged is not None and self.judged[0] == self.course.rollout.generation
        return self.judged[1] if self.judged and fits else None

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
            if self.first_ttft is None and self.course.rollout.phase is Phase.RAMP:
                self.first_ttft = self._store.first_ttft(self.course.rollout.id)

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
        """The latest numbers, as listings show them."""
        analysis = self.analysis
        harm = [_finding(finding) for finding in self.evidence.findings]
        shown = analysis.to_json() if analysis else None
        return {"harm": harm, "units": dict(self.units), "analysis": shown, "first_ttft": self.first_ttft}

    def close(self) -> None:
        """Stop what is under way."""
        if self.judging is not None:
            self.judging.cancel()

    async def _judge(self, spec: JudgeSpec, course: Course) -> None:
        began = self._monotonic()
        try:
            measured, analysis = await asyncio.to_thread(self._measure_and_judge, spec, course)
            self.judged = (course.rollout.generation, analysis)
            self.units = {"candidate": measured.candidate_units, "stable": measured.stable_units}
            if course.rollout.phase is Phase.RAMP:
                self.means = means(measured)
        except UnderstudyError as error:  # the database is away: nothing is concluded
            log.warning("rollout %d cannot be judged now: %s", course.rollout.id, error)
        except Exception:  # a bug in a statistic: nothing is concluded, and nobody is promoted
            log.exception("rollout %d could not be judged", course.rollout.id)
        finally:
            self.judging = None
            self._took = self._monotonic() - began

    def _measure_and_judge(self, spec: JudgeSpec, course: Course) -> tuple[Measurements, Analysis]:
        arms = self._store.arms(course.rollout.id)
        events = {name: tuple(found) for name, found in self.evidence.events.items()}
        measured = measure(self._sums, course, arms, events)
        return measured, judge(spec, measured)


def _harm_spec(course: Course) -> JudgeSpec:
    """Harm tests run over the whole rollout: their rules do not depend on the step."""
    return course.plan.judge_spec(0)


def _finding(finding: Finding) -> dict[str, Any]:
    body = asdict(finding)
    return {name: body[name] for name in ("metric", "test", "verdict", "reason", "log_e", "threshold", "n")}
