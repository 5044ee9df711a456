"""What follows the end of a rollout: a promoted version is watched for the bake time, a rollback leaves a report, and
engines that a bad candidate has poisoned are restarted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from adapters.errors import Conflict
from adapters.evidence_store import EvidenceStore
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Phase, Rollout, RolloutEvent
from adapters.types import Route
from gateway.rollout.collapse_duty import CollapseDuty
from gateway.rollout.decide import RECOVERY, Act, Action, collapsed
from gateway.rollout.guard import FLOOR, SETTLED, AfterWatch, guarded
from gateway.rollout.incident import exists, write_incident
from gateway.rollout.plant import Plant
from gateway.rollout.watching import Watched
from monitors.collapse import Kind, Verdict

EVERY = 1.0            # seconds between looks
SHOWN_EVERY = 30.0     # seconds between two writings of the same kind of verdict
CARE = 300.0           # seconds after a rollback in which stable is looked after

log = logging.getLogger("understudy.rollout")


class Aftercare:
    """Looks at rollouts that have ended. What it remembers may be lost: it is found again in the records."""

    def __init__(
        self, evidence: EvidenceStore, plant: Plant, incidents: Path, rollouts: RolloutStore,
        collapse: CollapseDuty | None = None,
    ) -> None:  # fmt: skip
        self._evidence = evidence
        self._plant = plant
        self._incidents = incidents
        self._rollouts = rollouts
        self._collapse = collapse
        self._shown: dict[int, tuple[Kind, float]] = {}  # verdicts written down, and when
        self._watches: dict[int, AfterWatch] = {}
        self._looked: dict[int, float] = {}
        self._done: set[int] = set()                     # rollbacks with a report and healthy engines
        self._given_up: set[int] = set()

    async def look(self, watched: Watched, route: Route | None, now: float) -> Action | None:
        """A rollback of the promoted version, if it is due. Raises DatabaseError."""
        rollout = watched.course.rollout
        if rollout.id in self._given_up or 0 <= now - self._looked.get(rollout.id, -1e9) < EVERY:
            return None
        self._looked[rollout.id] = now
        if rollout.phase is Phase.PROMOTED:
            return await self._watch(watched, route, now)
        if rollout.phase is Phase.ROLLED_BACK and rollout.id not in self._done:
            await self._rolled_back(watched, now)
        return None

    def give_up(self, rollout: int) -> None:
        """It cannot be taken back: not for us to try again and again."""
        self._given_up.add(rollout)

    async def _watch(self, watched: Watched, route: Route | None, now: float) -> Action | None:
        """While it serves the route and the version before is still loaded."""
        rollout = watched.course.rollout
        baking = route is not None and route.version == rollout.candidate and route.bake_until > now
        if route is None or not baking or route.target is not None or rollout.ended_at is None:
            self._watches.pop(rollout.id, None)
            return None
        watch = self._watches.setdefault(rollout.id, AfterWatch(self._evidence, watched.course))
        reason = await asyncio.to_thread(watch.look, watched.course)
        verdict = self._collapse.verdict(rollout) if self._collapse else None
        if (action := collapsed(verdict)) is not None:
            return action
        if reason:
            numbers = {"after": watch.state, **({"collapse": verdict.to_json()} if verdict else {})}
            return Action(Act.ROLL_BACK, reason, numbers, cause="after_promotion")
        if verdict is not None:
            await self._show(watched, verdict, now)
        return None

    async def _show(self, watched: Watched, verdict: Verdict, now: float) -> None:
        """Write the verdict down for listings; and where it asks for a person, once as an event too."""
        rollout = watched.course.rollout
        before, at = self._shown.get(rollout.id, (None, 0.0))
        if verdict.kind is before and 0 <= now - at < SHOWN_EVERY:
            return
        self._shown[rollout.id] = (verdict.kind, now)
        memory = watched.course.memory
        seen = {**memory.seen, "collapse": verdict.to_json()}
        known = (memory.seen.get("collapse") or {}).get("kind")
        course = replace(watched.course, memory=replace(memory, seen=seen))
        watched.course = course
        try:
            await asyncio.to_thread(self._rollouts.remember, course.rollout, course.memory.to_state())
        except Conflict as overtaken:  # the next look sees what an operator did
            log.info("%s", overtaken)
            return
        if verdict.holds and known != verdict.kind.value:
            event = RolloutEvent("warned", verdict.reason, numbers=verdict.to_json())
            await asyncio.to_thread(self._rollouts.note, rollout, event, now)

    async def _rolled_back(self, watched: Watched, now: float) -> None:
        rollout = watched.course.rollout
        if not exists(self._incidents, rollout):
            path = await asyncio.to_thread(write_incident, self._incidents, rollout, self._rollouts, self._evidence)
            log.warning("rollout %d: the incident report is %s", rollout.id, path)
        if rollout.ended_at is None or now - rollout.ended_at > CARE or watched.course.memory.recycled:
            self._done.add(rollout.id)
            return
        reason = await asyncio.to_thread(self._harmed, watched, rollout, rollout.ended_at)
        if reason:
            self._done.add(rollout.id)
            await asyncio.to_thread(
                self._rollouts.note, rollout, RolloutEvent("recycled", reason), now
            )
            await self._plant.recycle(rollout.candidate, reason)

    def _harmed(self, watched: Watched, rollout: Rollout, ended_at: float) -> str:
        """Whether stable is still bad without the candidate: its answers since the rollback say so."""
        metrics = {name: goal for name, goal in guarded(watched.course.plan).items() if goal == 0.0}
        mine = self._evidence.served(rollout.route, rollout.stable)
        answers, bad = self._evidence.counts(mine, ended_at + SETTLED, metrics)
        limits = watched.course.memory.stable.get("limits", {})
        for name, count in bad.items():
            limit = float(limits.get(name, FLOOR))
            if answers >= RECOVERY and count > max(1.0, 2 * limit * answers):
                return f"stable is still bad after the rollback: {name} in {count} of {answers} answers"
        return ""
