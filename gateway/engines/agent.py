"""The controller's hand on one replica: looks at the engine, and makes it hold what it should, one step at a time.

A step never waits for another replica; the controller runs them side by side. What the engine is about to hold is
written to the database first, so that no successor can take its files for unused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from adapters.errors import EngineRefused, EngineUnavailable
from adapters.probes import Verdict
from adapters.types import VERSION_PATTERN, Holding, HoldingState, Replica
from gateway.engines.client import EngineClient, timed_out
from gateway.engines.engine_metrics import EngineMetrics
from gateway.engines.probe import BroughtUp, bring_up
from gateway.engines.reconcile import (
    BringUp,
    Desired,
    Forget,
    Note,
    Observation,
    Step,
    Unload,
    noted,
    plan,
    poisoned_by,
    started,
)
from gateway.engines.tries import Tries

METRICS_EVERY = 2.0        # seconds: /metrics is 50 kB, so it is read only where it can matter
_UNSEEN = "not looked at yet"
_MOST_ROUNDS = 64          # steps and looks in one go

log = logging.getLogger("understudy.engines")


class HoldingStore(Protocol):
    """Where holdings are kept. Methods raise DatabaseError."""

    async def upsert_holding(self, holding: Holding) -> None:
        """Write the row."""

    async def delete_holding(self, replica: str, version: str) -> None:
        """Remove the row."""


class ReplicaAgent:
    """One replica. `desired` is set by the controller; `step` is called again and again.

    `base` is the base's name on the engine, `clock` gives seconds since the epoch, `on_load` hears how many seconds
    each load took.
    """

    def __init__(
        self,
        name: str,
        client: EngineClient,
        store: HoldingStore,
        *,
        base: str,
        slots: tuple[int, int],
        clock: Callable[[], float],
        holdings: dict[str, Holding] | None = None,
        on_load: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.name = name
        self.client = client
        self.desired = Desired(hold=True)
        self.holdings = dict(holdings or {})
        self.seen = Observation(up=False, error=_UNSEEN)
        self.looked_at = 0.0
        self.tries = Tries()
        self._recheck: set[str] = set()
        self._metrics: EngineMetrics | None = None
        self._metrics_at = 0.0
        self._silences = 0
        self._store = store
        self._base = base
        self._slots = slots
        self._clock = clock
        self._on_load = on_load

    @property
    def replica(self) -> Replica:
        """The row of this replica as last seen."""
        error = self.seen.error
        if poison := self.poison:
            error = f"its memory may hold NaN since {poison.version} was probed: it gets no traffic until it restarts"
        return Replica(
            self.name, self.client.url, self.seen.up, self.seen.boot, self.looked_at, error, *self.slots
        )

    @property
    def slots(self) -> tuple[int, int]:
        """(max_loras, max_cpu_loras): as configured, or as the engine says where that is less."""
        said = self._metrics.max_loras if self._metrics else 0
        return min(self._slots[0], said) if said else self._slots[0], self._slots[1]

    @property
    def known(self) -> bool:
        """True once it is clear whether the engine is up or down."""
        return self.seen.up or self.seen.error != _UNSEEN

    @property
    def poison(self) -> Holding | None:
        """The holding that showed that this engine computes NaN."""
        return poisoned_by(self.holdings, self.seen.boot)

    @property
    def usable(self) -> bool:
        """True when it may get traffic."""
        return self.seen.up and self.poison is None

    def ready(self, version: str) -> bool:
        """True when requests for `version` may be sent here."""
        held = self.holdings.get(version)
        current = held is not None and held.boot == self.seen.boot
        return self.usable and held is not None and current and held.state is HoldingState.READY

    def recheck(self, version: str) -> None:
        """Probe it again at the next step, also if it is ready or waits for another try."""
        self._recheck.add(version)
        self.tries.hurry(version)

    async def step(self) -> None:
        """Look, and act until nothing is left to do. Raises DatabaseError; an engine's errors become what is seen."""
        for _ in range(_MOST_ROUNDS):
            await self._look()
            if not self.desired.hold:
                assigned = {item.version for item in self.desired.assigned}
                self.tries.retain(assigned)
                self._recheck &= assigned
            desired = replace(self.desired, recheck=frozenset(self._recheck), max_cpu_loras=self.slots[1])
            steps = plan(self.seen, self.holdings, desired, self.tries.waiting(self._clock()))
            try:
                for step in steps:
                    await self._act(step)
            except EngineUnavailable as error:
                self._down(str(error))
                return
            if not any(isinstance(step, Unload | BringUp) for step in steps):
                return

    def away(self, reason: str) -> None:
        """It must not be used now, whatever it answers."""
        self._down(reason)

    async def gone(self) -> None:
        """The engine process has ended for certain: nothing of it can need a file any more."""
        for version in list(self.holdings):
            await self._act(Forget(version))

    async def _look(self) -> None:
        now = self._clock()
        try:
            await self.client.health()
            models = await self.client.models()
            adapters = {name: model.root for name, model in models.items() if model.parent is not None}
            if self._base not in models:
                served = ", ".join(name for name, model in models.items() if model.parent is None) or "nothing"
                raise EngineUnavailable(
                    f"it serves {served}, not {self._base!r}: start it with --served-model-name {self._base}, "
                    f"or set engine.served_name"
                )
            metrics = await self._read_metrics(adapters, now)
        except (EngineUnavailable, EngineRefused) as error:
            self._silences += 1
            if not timed_out(error) or self._silences > 1:  # one stall is not yet an outage
                self._down(str(error))
            return
        self._silences = 0
        if not self.seen.up or self.seen.boot != metrics.boot:
            log.info("%s is up at %s (boot %s)", self.name, self.client.url, metrics.boot)
            self.tries = Tries()
        in_use = metrics.adapters if metrics.running else frozenset()
        self.seen = Observation(True, metrics.boot, adapters, in_use, metrics.running)
        self.looked_at = now

    async def _read_metrics(self, adapters: dict[str, str], now: float) -> EngineMetrics:
        """Afresh after any change that a restart could explain, while something drains, and now and then."""
        changed = dict(self.seen.adapters) != adapters or not self.seen.up
        ours = {name for name in adapters if VERSION_PATTERN.fullmatch(name)}
        draining = not ours <= {item.version for item in self.desired.assigned}
        if self._metrics is None or changed or draining or now - self._metrics_at >= METRICS_EVERY:
            self._metrics = await self.client.metrics()
            self._metrics_at = now
        return self._metrics

    def _down(self, error: str) -> None:
        if self.seen.up or self.seen.error != error:
            level = logging.WARNING if self.seen.up else logging.INFO  # one that is only starting is not news
            log.log(level, "%s is down: %s", self.name, error)
        self.seen = Observation(up=False, boot=self.seen.boot, error=error)

    async def _act(self, step: Step) -> None:
        if isinstance(step, Forget):
            await self._store.delete_holding(self.name, step.version)
            self.holdings.pop(step.version, None)
        elif isinstance(step, Note):
            earlier = self.holdings.get(step.version)
            await self._write(noted(step, self.name, self.seen.boot, self._clock(), earlier))
        elif isinstance(step, Unload):
            await self._unload(step)
        else:
            await self._bring_up(step)

    async def _unload(self, step: Unload) -> None:
        try:
            await self.client.unload(step.version)
        except EngineRefused as error:
            log.warning("%s does not unload %s: %s", self.name, step.version, error)
            return
        state = HoldingState.FAILED if step.error else HoldingState.UNLOADED
        await self._act(Note(step.version, state, step.error))  # kept while this process may read the files
        log.info("%s unloaded %s%s", self.name, step.version, f": {step.error}" if step.error else "")

    async def _bring_up(self, step: BringUp) -> None:
        assigned, began = step.assigned, self._clock()
        version, boot = assigned.version, self.seen.boot
        held = self.holdings.get(version)
        if not (version in self._recheck and held is not None and held.state is HoldingState.READY):
            await self._write(started(assigned, self.name, boot, began))
        listed = self.seen.adapters.get(version) == assigned.path
        result = await bring_up(self.client, assigned, self._base, listed)
        self._recheck.discard(version)
        now = self._clock()
        state = HoldingState.READY if result.ready else HoldingState.FAILED
        await self._write(Holding(self.name, version, state, boot, now, result.error, result.probe))
        self._account(version, result, now, now - began)

    def _account(self, version: str, result: BroughtUp, now: float, took: float) -> None:
        if result.ready:
            self.tries.succeeded(version)
            self._on_load(took)
            log.info("%s holds %s after %.3f s, probe: %s", self.name, version, took, result.probe.get("verdict"))
            return
        count = self.tries.failed(version, now)
        level = logging.ERROR if result.probe.get("verdict") == Verdict.NON_FINITE else logging.WARNING
        log.log(level, "%s cannot serve %s (try %d): %s", self.name, version, count, result.error)

    async def _write(self, holding: Holding) -> None:
        await self._store.upsert_holding(holding)
        self.holdings[holding.version] = holding
