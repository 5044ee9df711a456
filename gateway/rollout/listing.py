"""Rollouts as values to print or to send: for the commands, the API and the console page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from adapters.rollouts import Phase, Rollout, RolloutEvent
from gateway.rollout.arms import Course, share_of
from gateway.rollout.incident import exists, incident_path
from gateway.rollout.memory import Memory
from gateway.rollout.plan import from_json


def as_json(rollout: Rollout, incidents: Path | None = None) -> dict[str, Any]:
    """Everything that is known, without the plan's text and the controller's own bookkeeping."""
    seen = rollout.state.get("seen") or {}
    steps = rollout.plan.get("step", [])
    report = incidents is not None and rollout.phase is Phase.ROLLED_BACK and exists(incidents, rollout)
    return {
        "id": rollout.id, "route": rollout.route, "candidate": rollout.candidate, "stable": rollout.stable,
        "plan": rollout.plan.get("name", ""), "phase": rollout.phase.value, "step": rollout.step, "steps": len(steps),
        "weight": rollout.weight, "hold": rollout.state.get("hold"), "generation": rollout.generation,
        "started_at": rollout.started_at, "phase_since": rollout.phase_since, "ended_at": rollout.ended_at,
        "seconds_in_step": rollout.state.get("credited", 0.0), "reason": rollout.reason,
        "cause": rollout.state.get("cause", ""), "units": seen.get("units", {}),
        "first_ttft": seen.get("first_ttft"), "harm": seen.get("harm", []), "analysis": seen.get("analysis"),
        "collapse": seen.get("collapse"),
        "incident": str(incident_path(incidents, rollout)) if report and incidents else "",
        "candidates": [_candidate(rollout, version, incidents) for version in rollout.candidates],
    }  # fmt: skip


def _candidate(rollout: Rollout, version: str, incidents: Path | None) -> dict[str, Any]:
    """One of the candidates, with its own share, evidence and end. `state`: open, dropped, or how the rollout ended."""
    seen = rollout.state.get("seen") or {}
    own = seen.get("rivals", {}).get(version, seen if version == rollout.candidate else {})
    dropped = rollout.state.get("dropped", {}).get(version)
    ended = rollout.phase.value if version == rollout.candidate else "not promoted"
    if rollout.phase is not Phase.PROMOTED:
        ended = rollout.phase.value
    report = incidents is not None and exists(incidents, rollout, version)
    return {
        "version": version, "state": "dropped" if dropped else "open" if rollout.open else ended,
        "share": _share(rollout, version), "reason": dropped["reason"] if dropped else "",
        "cause": dropped["cause"] if dropped else "",
        "units": own.get("units", {}), "first_ttft": own.get("first_ttft"), "harm": own.get("harm", []),
        "analysis": own.get("analysis"),
        "incident": str(incident_path(incidents, rollout, version)) if report and incidents else "",
    }  # fmt: skip


def _share(rollout: Rollout, version: str) -> float:
    """Its share of the units; of a single candidate, or a plan that cannot be read: what the row says."""
    if not rollout.rivals:
        return rollout.weight
    try:
        return share_of(Course(rollout, from_json(rollout.plan), Memory.from_state(rollout.state)), version)
    except (ConfigError, TypeError, ValueError, KeyError):
        return rollout.weight


def event_json(event: RolloutEvent) -> dict[str, Any]:
    """One event."""
    return {
        "id": event.id, "at": event.at, "kind": event.kind, "actor": event.actor, "reason": event.reason,
        "numbers": dict(event.numbers),
    }  # fmt: skip


def names(body: dict[str, Any]) -> str:
    """Every candidate of what as_json made; one that was dropped in parentheses."""
    shown = [f"({c['version']})" if c["state"] == "dropped" else c["version"] for c in body["candidates"]]
    return ", ".join(shown)


def where(body: dict[str, Any]) -> str:
    """Phase, step and hold in a few words, of what as_json made."""
    place = str(body["phase"])
    if place == Phase.RAMP.value:
        place += f" {body['step']}/{body['steps']}"
    hold = body["hold"]
    return f"{place}, held ({hold['kind']})" if hold and body["ended_at"] is None else place
