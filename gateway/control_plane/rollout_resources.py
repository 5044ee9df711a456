"""The operator API's rollouts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import Field

from adapters.errors import ConfigError, Conflict
from adapters.rollouts import Rollout
from gateway.control_plane.resources import ACTOR, Body, Services
from gateway.rollout import operations
from gateway.rollout.configured import plan_of
from gateway.rollout.listing import as_json, event_json
from gateway.rollout.plan import MOST_CANDIDATES, from_json

POLL = 0.25              # seconds between looks for new events
KEEP_ALIVE = 15.0        # seconds after which a silent stream says that it is alive


class NewRollout(Body):
    """A rollout to begin: of one version, or of several candidates. `plan`: a plan as in a plan file, as JSON; left
    out: the configured one."""

    route: str
    version: str = ""
    candidates: list[str] = Field(default_factory=list, max_length=MOST_CANDIDATES)
    plan: dict[str, Any] | None = None


class Steer(Body):
    """One change: a weight in (0, 1), or an action. `generation`: what the sender saw. `version`: of several candidates
    the one to promote, or the only one to roll back."""

    generation: int
    weight: float | None = None
    action: Literal["pause", "resume", "promote", "rollback"] | None = None
    version: str = ""
    reason: str = Field("", max_length=2000)


def build_rollout_router(services: Services) -> APIRouter:
    """/api/v1/rollouts."""
    router = APIRouter(prefix="/api/v1")
    store = services.stores.rollouts
    incidents = services.settings.data_dir / "incidents"

    @router.get("/rollouts")
    def list_rollouts(route: str | None = None, limit: int = 100) -> dict[str, Any]:
        return {"rollouts": [as_json(r, incidents) for r in store.newest(route, limit=max(1, min(limit, 1000)))]}

    @router.post("/rollouts", status_code=201)
    async def start(body: NewRollout) -> dict[str, Any]:
        made = await asyncio.to_thread(_start, services, body)
        services.controller.wake()
        return as_json(made, incidents)

    @router.get("/rollouts/{number}")
    def show(number: int) -> dict[str, Any]:
        rollout = store.get(number)
        events = [event_json(event) for event in store.events(number)]
        return {**as_json(rollout, incidents), "plan_body": rollout.plan, "events": events}

    @router.patch("/rollouts/{number}")
    async def steer(number: int, body: Steer) -> dict[str, Any]:
        changed = await asyncio.to_thread(_steer, services, number, body)
        services.controller.wake()
        return as_json(changed, incidents)

    @router.get("/rollouts/{number}/events")
    async def events(number: int, after: int = 0) -> StreamingResponse:
        await asyncio.to_thread(store.get, number)
        return StreamingResponse(_stream(services, number, after), media_type="text/event-stream")

    return router


def _start(services: Services, body: NewRollout) -> Rollout:
    if body.plan is not None:
        plan = from_json(body.plan)
    else:
        plan = plan_of(services.settings, rated=services.stores.evidence.rated(body.route))
    if bool(body.version) == bool(body.candidates):
        raise ConfigError("send either a version, or candidates: a list of versions")
    first, *rivals = body.candidates or [body.version]
    base = services.controller.base.version
    return operations.start(
        services.stores.rollouts, body.route, first, plan, base=base, actor=ACTOR, rivals=rivals
    )


def _steer(services: Services, number: int, body: Steer) -> Rollout:
    store = services.stores.rollouts
    rollout = store.get(number)
    if (body.weight is None) == (body.action is None):
        raise ConfigError("send either a weight or an action: pause, resume, promote or rollback")
    newest = store.newest(rollout.route, limit=1)[0]
    if newest.id != number:
        raise Conflict(f"rollout {number} has ended: route {rollout.route} has rollout {newest.id}")
    who: dict[str, Any] = {"actor": ACTOR, "reason": body.reason, "generation": body.generation}
    if body.weight is not None:
        return operations.set_weight(store, rollout.route, body.weight, **who)
    if body.action in ("promote", "rollback"):
        act = operations.promote if body.action == "promote" else operations.roll_back
        return act(store, rollout.route, body.version, **who)
    if body.version:
        raise ConfigError("a version goes with promote and rollback only: every candidate has the same part")
    return (operations.pause if body.action == "pause" else operations.resume)(store, rollout.route, **who)


async def _stream(services: Services, number: int, after: int) -> AsyncIterator[str]:
    """Events as they come, then one `end`. A comment now and then keeps proxies from closing the stream."""
    store, silent = services.stores.rollouts, 0.0
    while True:
        rollout = await asyncio.to_thread(store.get, number)
        found = await asyncio.to_thread(store.events, number, after)
        for event in found:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event_json(event))}\n\n"
        if not rollout.open and not found:
            yield f"event: end\ndata: {json.dumps({'phase': rollout.phase.value, 'reason': rollout.reason})}\n\n"
            return
        silent = 0.0 if found else silent + POLL
        if silent >= KEEP_ALIVE:
            silent = 0.0
            yield ": alive\n\n"
        await asyncio.sleep(POLL)
