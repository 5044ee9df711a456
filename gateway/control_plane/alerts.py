"""The receiver of Alertmanager's webhook: a firing alert with understudy_action="rollback" rolls its route back.

Alertmanager sends a firing alert again and again, and whole groups of alerts in one body. So the same alert twice does
nothing twice, resolved alerts and those with another action are ignored, and an alert that began before the rollout
did is not evidence against it. What could not be done now is answered with 503: Alertmanager tries again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from adapters.errors import Conflict, NotFound
from adapters.rollout_store import RolloutStore
from gateway.control_plane.resources import Services
from gateway.errors import unavailable
from gateway.rollout import operations

ACTOR, CAUSE = "alertmanager", "alert"   # who did it, and what it is counted as
TRIES = 5                # of a rollout whose row is being changed by somebody else

log = logging.getLogger("understudy.alerts")


class Alert(BaseModel):
    """One alert of Alertmanager's webhook; what is not used here is ignored."""

    model_config = ConfigDict(extra="ignore")

    status: str = "firing"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    startsAt: datetime | None = None

    @property
    def name(self) -> str:
        """How it is called in reasons and answers."""
        return self.labels.get("alertname", "alert")

    @property
    def reason(self) -> str:
        """What the history says about the rollback."""
        why = self.annotations.get("summary") or self.annotations.get("description") or ""
        return (f"alert {self.name}" + (f": {why}" if why else ""))[:2000]

    def began_before(self, seconds: float) -> bool:
        """True when it is known to have begun before this instant (seconds since the epoch)."""
        began = self.startsAt
        if began is None:
            return False
        return (began if began.tzinfo else began.replace(tzinfo=UTC)).timestamp() < seconds


class Alerts(BaseModel):
    """Alertmanager's webhook body, version 4. `truncatedAlerts`: how many max_alerts left out."""

    model_config = ConfigDict(extra="ignore")

    alerts: list[Alert] = Field(max_length=1000)
    truncatedAlerts: int = 0


def build_alert_router(services: Services) -> APIRouter:
    """/api/v1/alerts."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/alerts")
    async def alerts(body: Alerts) -> dict[str, Any]:
        if body.truncatedAlerts:
            log.warning("Alertmanager left %d alerts out: raise max_alerts of its webhook", body.truncatedAlerts)
        done, missed = [], []
        for alert in body.alerts:
            try:
                result = await asyncio.to_thread(_act, services.stores.rollouts, alert)
                done.append({"alert": alert.name, "route": alert.labels.get("route", ""), "result": result})
            except Conflict as changing:
                missed.append(str(changing))
        services.controller.wake()
        if missed:
            raise unavailable(f"not rolled back yet: {missed[0]}")
        return {"results": done}

    return router


def _act(store: RolloutStore, alert: Alert, tries: int = TRIES) -> str:
    """What one alert led to. Nothing to roll back is no error: it may come again. Raises Conflict, DatabaseError."""
    route = alert.labels.get("route", "")
    if alert.status != "firing" or alert.labels.get("understudy_action") != "rollback":
        return "ignored"
    if not route:
        log.warning("alert %s asks for a rollback but has no label route: nothing is done", alert.name)
        return "ignored: it has no label route"
    try:
        return _roll_back(store, route, alert)
    except NotFound as nothing:
        log.info("alert %s: %s", alert.name, nothing)
        return str(nothing)
    except Conflict:
        if tries <= 1:
            raise
        return _act(store, alert, tries - 1)


def _roll_back(store: RolloutStore, route: str, alert: Alert) -> str:
    """Raises NotFound, Conflict when the rollout changed between the look and the deed."""
    newest = next(iter(store.newest(route, limit=1)), None)
    if newest is not None and alert.began_before(newest.started_at):
        log.warning("alert %s began before rollout %d of route %s: not rolled back", alert.name, newest.id, route)
        return f"ignored: it began before rollout {newest.id} did"
    seen = None if newest is None else newest.generation
    done = operations.roll_back(store, route, cause=CAUSE, actor=ACTOR, reason=alert.reason, generation=seen)
    log.warning("rollout %d of route %s is rolled back: %s", done.id, route, alert.reason)
    return f"rollout {done.id} rolled back"
