"""Rollouts as values to print or to send: for the commands, the API and the console page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters.rollouts import Phase, Rollout, RolloutEvent
from gateway.rollout.incident import exists, incident_path


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
        "seconds_in_step": rollout.state.get("credited", 0.0), "reason": rollout.reason, "units": seen.get("units", {}),
        "first_ttft": seen.get("first_ttft"), "harm": seen.get("harm", []), "analysis": seen.get("analysis"),
        "incident": str(incident_path(incidents, rollout)) if report and incidents else "",
    }  # fmt: skip


def event_json(event: RolloutEvent) -> dict[str, Any]:
    """One event."""
    return {
        "id": event.id, "at": event.at, "kind": event.kind, "actor": event.actor, "reason": event.reason,
        "numbers": dict(event.numbers),
    }  # fmt: skip


def where(body: dict[str, Any]) -> str:
    """Phase, step and hold in a few words, of what as_json made."""
    place = str(body["phase"])
    if place == Phase.RAMP.value:
        place += f" {body['step']}/{body['steps']}"
    hold = body["hold"]
    return f"{place}, held ({hold['kind']})" if hold and body["ended_at"] is None else place
