"""All collapse detectors of one leader: who is watched, one look after the other in the background, what it showed.

Reading a batch of feedback takes milliseconds, fitting a baseline may take seconds: neither may keep the loop that
looks at harm ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from adapters.collapse_store import CollapseStore
from adapters.errors import UnderstudyError
from adapters.rollouts import Phase, Rollout
from adapters.types import Route
from gateway.config import Settings
from gateway.rollout.collapse import CollapseWatch, Subject
from gateway.rollout.collapse_baseline import wanted_of
from gateway.rollout.collapse_report import CollapseMetrics
from gateway.rollout.watching import Watched
from gateway.setting_types import parse_duration
from monitors.analysis import Verdict as Found
from monitors.collapse import Kind, Verdict

log = logging.getLogger("understudy.rollout")


def watched_alone(rollout: Rollout, route: Route | None, now: float) -> bool:
    """True while the promoted candidate serves the route and the version before is still loaded."""
    if rollout.phase is not Phase.PROMOTED or route is None or rollout.ended_at is None:
        return False
    return route.version == rollout.candidate and route.bake_until > now and route.target is None


def subjects(watched: Iterable[Watched], routes: Mapping[str, Route], now: float) -> Iterator[tuple[Subject, bool]]:
    """Who is to be watched, and whether traffic is split wrongly: candidates, promoted versions, and all that serve."""
    covered = set()
    for one in watched:
        rollout, memory = one.course.rollout, one.course.memory
        key = (rollout.route, rollout.candidate, rollout.stable)
        if rollout.open and rollout.phase is Phase.RAMP:
            for version in one.course.candidates:
                scope = _scope(rollout, version)
                yield Subject(rollout.route, version, rollout.stable, scope, rollout.id), _mismatched(one)
        elif watched_alone(rollout, routes.get(rollout.route), now):
            cursors = memory.after.get("cursors", (0, 0))
            yield Subject(*key, f"after:{rollout.id}", start=(int(cursors[0]), int(cursors[1]))), False
            covered.add(rollout.route)
    for route in routes.values():
        if route.version is not None and route.name not in covered:
            yield Subject(route.name, route.version, route.version, "alone"), False


def _scope(rollout: Rollout, version: str) -> str:
    """The occasion: of several candidates each has one of its own."""
    if rollout.phase is Phase.PROMOTED:
        return f"after:{rollout.id}"
    return f"rollout:{rollout.id}" + (f":{version}" if version != rollout.candidate else "")


def _mismatched(watched: Watched) -> bool:
    findings = watched.analysis.findings if watched.analysis else ()
    return any(finding.test == "ratio_mismatch" and finding.verdict is Found.FAIL for finding in findings)


class CollapseDuty:
    """Used from the loop only. `clock` gives seconds since the epoch, `monotonic` seconds that never jump."""

    def __init__(
        self, store: CollapseStore, settings: Settings, *, clock: Callable[[], float],
        monotonic: Callable[[], float], metrics: CollapseMetrics | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._settings = settings.collapse
        self._enabled = settings.collapse.enabled and bool(settings.rewards.scoring_url)
        self._wanted = wanted_of(settings.collapse, settings.rewards.grader)
        self._clock, self._monotonic = clock, monotonic
        self._metrics = metrics
        self._every = parse_duration(settings.collapse.every)
        self._watches: dict[tuple[str, str], CollapseWatch] = {}
        self._mismatched: dict[tuple[str, str], bool] = {}
        self._looked: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, str], Kind] = {}
        self._task: asyncio.Task[None] | None = None

    def attend(self, watched: Iterable[Watched], routes: Mapping[str, Route]) -> None:
        """Follow who is to be watched, and begin to look unless a look is under way. Nothing where nobody grades."""
        if not self._enabled:
            return
        wanted = {_key(subject): (subject, wrong) for subject, wrong in subjects(watched, routes, self._clock())}
        for key in set(self._watches) - set(wanted):
            self._forget(key)
        for key, (subject, wrong) in wanted.items():
            self._mismatched[key] = wrong
            if key not in self._watches:
                watch = CollapseWatch(self._store, self._settings, self._wanted, subject, self._monotonic)
                self._watches[key] = watch
        due = [key for key in wanted if self._monotonic() - self._looked.get(key, -1e9) >= self._every]
        if due and self._task is None:
            self._task = asyncio.create_task(self._look(due))

    def of(self, rollout: Rollout, version: str = "") -> CollapseWatch | None:
        """The watch over a rollout's candidate (the first), in the ramp or after its promotion; None: there is none."""
        return self._watches.get((rollout.route, _scope(rollout, version or rollout.candidate)))

    def acknowledge(self, rollout: Rollout) -> None:
        """An operator lets it go on."""
        for version in rollout.candidates:
            if (watch := self.of(rollout, version)) is not None:
                watch.acknowledge()

    def verdict(self, rollout: Rollout) -> Verdict | None:
        """What it last showed."""
        watch = self.of(rollout)
        return watch.verdict if watch else None

    async def settle(self) -> None:
        """Wait for looks under way; for tests."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def close(self) -> None:
        """Forget everything: another controller leads."""
        if self._task is not None:
            self._task.cancel()
        for key in list(self._watches):
            self._forget(key)

    async def _look(self, due: list[tuple[str, str]]) -> None:
        try:
            for key in due:
                if (watch := self._watches.get(key)) is not None:
                    await self._one(key, watch)
        finally:
            self._task = None

    async def _one(self, key: tuple[str, str], watch: CollapseWatch) -> None:
        self._looked[key] = self._monotonic()
        try:
            verdict = await asyncio.to_thread(watch.look, self._clock(), self._mismatched.get(key, False))
        except UnderstudyError as error:  # the database is away: nothing is concluded
            log.warning("the rewards of %s cannot be looked at now: %s", watch.subject.version, error)
            return
        except Exception:  # a bug in a statistic must not keep the others unwatched
            log.exception("the rewards of %s could not be looked at", watch.subject.version)
            return
        if self._watches.get(key) is not watch:
            return
        if verdict.kind is not self._said.get(key):
            self._said[key] = verdict.kind
            loud = verdict.kind.harmful or verdict.holds
            log.log(
                logging.WARNING if loud else logging.INFO, "%s on %s (%s): %s",
                watch.subject.version, watch.subject.route, verdict.kind.value, verdict.reason,
            )  # fmt: skip
        if self._metrics and watch.detector is not None:
            self._metrics.show(watch.subject.route, watch.subject.version, watch.detector)

    def _forget(self, key: tuple[str, str]) -> None:
        watch = self._watches.pop(key)
        for remembered in (self._looked, self._said, self._mismatched):
            remembered.pop(key, None)
        if self._metrics:
            self._metrics.gone(watch.subject.version)


def _key(subject: Subject) -> tuple[str, str]:
    """Route and scope: "alone" is of the version that serves, and begins anew with another one."""
    return subject.route, f"{subject.scope}:{subject.version}" if subject.scope == "alone" else subject.scope
