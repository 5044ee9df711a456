"""`adapter verify`: has a version loaded and probed afresh wherever it is placed, and says what each engine showed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from adapters.errors import Conflict, EngineUnavailable
from adapters.registry import Registry
from adapters.types import HoldingState, Kind
from gateway.control_plane.controller import Controller
from gateway.control_plane.wanted import SERVABLE

PATIENCE = 180.0   # seconds; a probe may wait a minute on a busy engine
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """What one engine showed. `verdict`: match, none (no probes to compare with), or why not."""

    engine: str
    ok: bool
    verdict: str
    error: str = ""
    probe: dict[str, Any] = field(default_factory=dict)


async def verify(controller: Controller, registry: Registry, version: str) -> list[Finding]:
    """One finding per engine that is up.

    Raises NotFound, Conflict (not the leader, not servable, no slot), EngineUnavailable (no engine, or none answered).
    """
    found = await asyncio.to_thread(registry.get, version)
    if found.stage not in SERVABLE or found.kind is not Kind.ADAPTER:
        what = found.stage.value if found.stage not in SERVABLE else found.kind.value
        raise Conflict(f"version {version} is {what} and is not loaded anywhere")
    if not controller.leads:
        raise Conflict("this controller does not lead: ask the one that does, or try again in some seconds")
    since = controller.now()
    deadline = time.monotonic() + PATIENCE
    controller.ask_for(version)
    while time.monotonic() < deadline:
        await asyncio.sleep(_POLL)
        findings = _look(controller, version, since)
        if findings is not None:
            return findings
    raise EngineUnavailable(f"version {version} was not verified within {PATIENCE:.0f} s: see `understudy doctor`")


def _look(controller: Controller, version: str, since: float) -> list[Finding] | None:
    """The findings once every engine's is newer than `since`; None until then."""
    if not controller.leads:
        raise Conflict("another controller leads now: ask it")
    if error := controller.preparation.error(version):
        raise EngineUnavailable(error)
    if reason := controller.placement.refused.get(version):
        raise Conflict(f"version {version}: {reason}")
    agents = controller.fleet.agents
    if all(agent.known and not agent.seen.up for agent in agents.values()):
        raise EngineUnavailable("no engine is up: see `understudy doctor`")
    placed = controller.placement.of(version)
    findings = []
    failed = False
    for name in placed:
        agent = agents[name]
        held = agent.holdings.get(version)
        if held is None or held.since < since or held.state is HoldingState.LOADING or held.boot != agent.seen.boot:
            if held is not None and held.state is HoldingState.READY:
                agent.recheck(version)
            continue
        ok = held.state is HoldingState.READY
        failed |= not ok
        verdict = str(held.probe.get("verdict", "failed"))
        findings.append(Finding(name, ok, "match" if ok and verdict == "match" else verdict, held.error, held.probe))
    poisoned = [agent for agent in agents.values() if (held := agent.poison) and held.since >= since]
    for agent in poisoned:
        held = agent.holdings[version]
        findings.append(Finding(agent.name, False, str(held.probe.get("verdict")), held.error, held.probe))
        failed = True
    if placed and len(findings) == len(placed):
        return findings
    if not failed:
        return None
    # It failed where it was tried first, so it was not tried elsewhere.
    missing = [name for name in placed if name not in {finding.engine for finding in findings}]
    return [*findings, *(Finding(name, False, "not tried", "it failed on another engine first") for name in missing)]
