"""Carries rollouts forward: what is → decide → one transaction. Level-triggered: every tick starts from the rows.

    follow the rows → read new evidence → judge (in the background, every few seconds) → decide → commit

A tick is cheap, so that it can run ten times a second while a rollout is open: bad events are acted on as they
arrive. Nothing here asks an engine; what the control plane has to do comes in as a Plant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from adapters.errors import Conflict, NotFound, UnderstudyError
from adapters.rollouts import Phase, Rollout
from adapters.types import Route
from gateway.rollout.aftercare import Aftercare
from gateway.rollout.arms import Course
from gateway.rollout.changes import Change
from gateway.rollout.collapse_duty import CollapseDuty
from gateway.rollout.decide import Act, Action, Facts, StableArm, decide
from gateway.rollout.incident import report_dropped
from gateway.rollout.memory import Hold, HoldKind, Memory, credit, with_boots
from gateway.rollout.plant import Plant, RolloutStores
from gateway.rollout.report import RolloutMetrics
from gateway.rollout.rivals import combined
from gateway.rollout.watching import Watched, course_of
from monitors.collapse import Verdict

_TROUBLE = (Act.ROLL_BACK, Act.DROP, Act.HOLD, Act.ABORT, Act.RECYCLE)
SAVE_EVERY = 2.0       # seconds between writes of what must not be forgotten, when nothing else is written

log = logging.getLogger("understudy.rollout")


@dataclass
class Rollouts:
    """All rollouts that are open, or ended so lately that they are looked after. Not thread-safe; one loop.

    `clock` gives seconds since the epoch, `monotonic` seconds that never jump; `incidents`: the folder for reports.
    """

    stores: RolloutStores
    plant: Plant
    incidents: Path
    bake: float
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    metrics: RolloutMetrics | None = None
    collapse: CollapseDuty | None = None
    watched: dict[int, Watched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._after = Aftercare(
            self.stores.evidence, self.plant, self.incidents, self.stores.rollouts, self.collapse
        )

    @property
    def courses(self) -> dict[str, Course]:
        """Open rollouts whose candidate may have arms, by route: what the snapshot is composed of."""
        found = [watched.course for watched in self.watched.values()]
        return {c.rollout.route: c for c in found if c.rollout.open and c.rollout.phase is not Phase.PREPARING}

    @property
    def any_open(self) -> bool:
        """True while evidence has to be looked at as it arrives."""
        return any(watched.course.rollout.open for watched in self.watched.values())

    def follow(self, rollouts: Iterable[Rollout]) -> None:
        """Take over the rows: new ones, ended ones, and those that an operator changed."""
        rows = {rollout.id: rollout for rollout in rollouts}
        for number in set(self.watched) - set(rows):
            self._forget(number)
        for number, row in rows.items():
            known = self.watched.get(number)
            if known is not None and known.course.rollout.generation >= row.generation:
                continue
            course = course_of(row)
            if course is None:
                continue
            if known is None:
                self.watched[number] = Watched(course, self.stores.evidence, self.stores.sums, self.monotonic)
            else:
                self._changed(known, course)

    def _changed(self, watched: Watched, course: Course) -> None:
        """An operator, or an alert, changed the row."""
        before = watched.course
        watched.replaced(course)
        if before.memory.hold is not None and course.memory.hold is None and self.collapse:
            self.collapse.acknowledge(course.rollout)
        if self.metrics:
            self.metrics.show(watched)
            self.metrics.changed(before, course)

    async def tick(self, rollouts: Iterable[Rollout], routes: Iterable[Route]) -> bool:
        """Look at every rollout once. True when a row changed. Raises DatabaseError, Conflict (somebody else leads)."""
        self.follow(rollouts)
        serving = {route.name: route for route in routes}
        changed = False
        for watched in list(self.watched.values()):
            try:
                changed |= await self._look(watched, serving)
            except UnderstudyError:
                raise
            except Exception:  # a bug must not keep the other routes, and the engines, unwatched
                log.exception("rollout %d could not be looked at", watched.course.rollout.id)
        if self.collapse:
            self.collapse.attend(self.watched.values(), serving)
        return changed

    async def _look(self, watched: Watched, serving: Mapping[str, Route]) -> bool:
        rollout = watched.course.rollout
        if rollout.open:
            return await self._tend(watched)
        route = None if rollout.route in self.courses else serving.get(rollout.route)
        action = await self._after.look(watched, route, self.clock())
        return await self._commit(watched, action) if action else False

    async def settle(self) -> None:
        """Wait for judgements under way; for tests."""
        await asyncio.gather(*(w.judging for w in self.watched.values() if w.judging), return_exceptions=True)
        if self.collapse:
            await self.collapse.settle()

    def close(self) -> None:
        """Forget everything: another controller leads."""
        if self.collapse:
            self.collapse.close()
        for number in list(self.watched):
            self._forget(number)

    async def _tend(self, watched: Watched) -> bool:
        now = self.clock()
        memory = watched.course.memory
        memory = replace(memory, credited=memory.credited + credit(memory, now), ticked_at=now)
        if watched.course.exposed:
            boots = [self.plant.boots(version) for version in watched.course.candidates]
            memory = with_boots(memory, {name: boot for found in boots for name, boot in found.items()})
        watched.course = replace(watched.course, memory=memory)
        for version in set(memory.dropped) - watched.reported:
            await asyncio.to_thread(report_dropped, self.incidents, watched.course.rollout, version, self.stores)
            watched.reported.add(version)
        facts = await self._facts(watched)
        course = watched.course
        action = decide(course.plan, course.rollout, course.memory, facts, now)
        if self.metrics:
            self.metrics.show(watched)
        if action.act is Act.WAIT:
            await self._save(watched, now)
            return False
        return await self._commit(watched, action)

    async def _facts(self, watched: Watched) -> Facts:
        course = watched.course
        stable, trips = StableArm(), {}
        if course.rollout.phase is not Phase.PREPARING:
            await asyncio.to_thread(watched.read)
            stable = watched.stable
            trips = await asyncio.to_thread(self.stores.trips, course)
            watched.judge_if_due()

        def own(version: str) -> Facts:
            state, findings = self.plant.readiness(version), watched.findings_of(version)
            return Facts(
                state.ready, state.fault, state.obstacle, findings, trips.get(version, ""), stable,
                watched.analysis_of(version), *self._rewards(watched, version),
            )  # fmt: skip

        return combined({version: own(version) for version in course.candidates}, watched.now)

    def _rewards(self, watched: Watched, version: str) -> tuple[Verdict | None, bool]:
        """What the collapse detector says of a candidate, and whether that holds the ramp."""
        watch = self.collapse.of(watched.course.rollout, version) if self.collapse else None
        if watch and version == watched.course.rollout.candidate:
            watched.collapse = watch.verdict
        return (watch.verdict, watch.holds) if watch else (None, False)

    async def _commit(self, watched: Watched, action: Action) -> bool:
        """Carry it out. A row that changed meanwhile is looked at again at the next tick."""
        course, now = watched.course, self.clock()
        memory = replace(course.memory, **watched.remembered())
        if action.act is Act.PROMOTE:
            ends = await asyncio.to_thread(self.stores.evidence.ends)
            memory = replace(memory, reference=watched.means, after={"cursors": ends})
        if action.act is Act.RECYCLE:
            memory = replace(memory, recycled=True)
        change = Change(course.rollout, memory, action, now, self.bake)
        try:
            row = await self.plant.commit(change)
        except (Conflict, NotFound) as refusal:
            return await self._refused(change, refusal)
        log.log(
            logging.WARNING if action.act in _TROUBLE else logging.INFO,
            "rollout %d of %s on %s: %s: %s", row.id, ", ".join(row.candidates), row.route, action.act.value,
            action.reason,
        )  # fmt: skip
        watched.replaced(Course(row, course.plan, Memory.from_state(row.state)))
        if action.act is Act.RECYCLE:
            for version in course.candidates:
                await self.plant.recycle(version, action.reason)
        if self.metrics:
            self.metrics.show(watched)
            if action.act in (Act.ROLL_BACK, Act.DROP):
                self.metrics.rolled_back(row.route, action.cause)
        return True

    async def _refused(self, change: Change, conflict: Conflict | NotFound) -> bool:
        """Overtaken by an operator: they are right. Refused for another reason: hold, and say why."""
        rollout = change.rollout
        row = await asyncio.to_thread(self.stores.rollouts.get, rollout.id)
        log.warning("rollout %d: %s", rollout.id, conflict)
        if not rollout.open:
            self._after.give_up(rollout.id)
            return True
        if row.generation == rollout.generation and change.action.act is not Act.HOLD:
            hold = Hold(HoldKind.INCONCLUSIVE, str(conflict), change.now)
            held = Action(
                Act.HOLD, str(conflict), change.action.numbers,
                phase=rollout.phase, step=rollout.step, weight=rollout.weight, hold=hold,
            )  # fmt: skip
            await self.plant.commit(replace(change, action=held, memory=replace(change.memory, wanted="")))
        elif row.generation == rollout.generation:
            raise conflict
        return True

    async def _save(self, watched: Watched, now: float) -> None:
        course = watched.course
        if 0 <= now - watched.saved_at < SAVE_EVERY:
            return
        watched.saved_at = now
        memory = replace(course.memory, **watched.remembered())
        watched.course = replace(course, memory=memory)
        try:
            await asyncio.to_thread(self.stores.rollouts.remember, course.rollout, memory.to_state())
        except Conflict as overtaken:  # the next look sees what an operator did
            log.info("%s", overtaken)

    def _forget(self, number: int) -> None:
        watched = self.watched.pop(number)
        watched.close()
        if self.metrics:
            self.metrics.gone(watched)


