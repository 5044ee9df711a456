"""The resources of the operator API: adapters, routes, engines, keys."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from adapters.database import Database
from adapters.errors import ConfigError
from adapters.gates import GateStatus, gate_status, gate_statuses
from adapters.keys import create_key, list_keys, revoke_key
from adapters.types import AdapterVersion, ApiKey, Holding, Stage
from gateway.config import Settings, parse_duration
from gateway.control_plane.controller import Controller
from gateway.control_plane.verification import verify
from gateway.control_plane.view import Stores

ACTOR = "operator-api"


class Body(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Reason(Body):
    """Why, for the history."""

    reason: str = Field("", max_length=2000)


class NewRoute(Body):
    """A route to make."""

    name: str
    description: str = ""


class Change(Body):
    """The version a route should serve ("base": none), and the generation it must still have."""

    version: str
    generation: int | None = None


class NewKey(Body):
    """A key to make."""

    owner: str
    scopes: list[str]
    routes: list[str] = []
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Services:
    """What the resources work on."""

    settings: Settings
    database: Database
    stores: Stores
    controller: Controller


def build_router(services: Services) -> APIRouter:
    """All resources under /api/v1. Handlers that only read or write the database run in threads."""
    router = APIRouter(prefix="/api/v1")
    _adapters(router, services)
    _routes(router, services)
    _engines(router, services)
    _keys(router, services)
    return router


def _adapters(router: APIRouter, services: Services) -> None:
    registry, fleet = services.stores.registry, services.stores.fleet

    @router.get("/adapters")
    def list_adapters(route: str | None = None, stage: Annotated[Stage | None, Query()] = None) -> dict[str, Any]:
        gates = gate_statuses(services.database)
        listed = registry.list(route, stage)
        return {"adapters": [_version(one) | _gate(gates.get(one.name)) for one in listed]}

    @router.get("/adapters/{version}")
    def show_adapter(version: str) -> dict[str, Any]:
        found = _version(registry.get(version)) | _gate(gate_status(services.database, version))
        holdings = [_holding(held) for held in fleet.holdings(version=version)]
        return {**found, "events": registry.events(version), "holdings": holdings}

    @router.post("/adapters/{version}/verify")
    async def verify_adapter(version: str) -> dict[str, Any]:
        findings = await verify(services.controller, registry, version)
        return {"version": version, "ok": all(f.ok for f in findings), "engines": [asdict(f) for f in findings]}

    @router.post("/adapters/{version}/archive")
    def archive_adapter(version: str, body: Reason | None = None) -> dict[str, Any]:
        archived = registry.archive(version, ACTOR, body.reason if body else "")
        registry.delete_artifact_if_unused(archived.digest)
        return _version(archived)

    @router.post("/adapters/{version}/release")
    def release_adapter(version: str, body: Reason) -> dict[str, Any]:
        return _version(registry.release(version, ACTOR, body.reason))


def _routes(router: APIRouter, services: Services) -> None:
    routes, settings = services.stores.routes, services.settings

    @router.get("/routes")
    def list_routes() -> dict[str, Any]:
        return {"routes": [asdict(route) for route in routes.list()]}

    @router.get("/routes/{name}")
    def show_route(name: str) -> dict[str, Any]:
        return asdict(routes.get(name))

    @router.post("/routes", status_code=201)
    def create_route(body: NewRoute) -> dict[str, Any]:
        if body.name == settings.engine.served_name:
            raise ConfigError(f"{body.name!r} is the base's own name (engine.served_name): choose another")
        return asdict(routes.create(body.name, body.description))

    @router.put("/routes/{name}/version", status_code=202)
    async def set_version(name: str, body: Change) -> dict[str, Any]:
        changed = await asyncio.to_thread(_set_version, services, name, body)
        services.controller.wake()
        return changed

    @router.delete("/routes/{name}", status_code=204)
    def delete_route(name: str) -> None:
        if any(route.name == name for route in settings.route):
            raise ConfigError(f"route {name} is declared in the configuration file: remove it there first")
        routes.delete(name)


def _set_version(services: Services, name: str, body: Change) -> dict[str, Any]:
    routes, settings = services.stores.routes, services.settings
    if body.version in ("base", settings.engine.served_name):
        bake = parse_duration(settings.rollout.bake)
        return asdict(routes.clear(name, bake, expected_generation=body.generation))
    return asdict(routes.set_target(name, body.version, body.generation, actor=ACTOR))


def _engines(router: APIRouter, services: Services) -> None:
    fleet = services.stores.fleet

    @router.get("/engines")
    def list_engines() -> dict[str, Any]:
        held: dict[str, list[dict[str, Any]]] = {}
        for holding in fleet.holdings():
            held.setdefault(holding.replica, []).append(_holding(holding))
        return {"engines": [{**asdict(row), "holdings": held.get(row.name, [])} for row in fleet.replicas()]}


def _keys(router: APIRouter, services: Services) -> None:
    database = services.database

    @router.get("/keys")
    def all_keys() -> dict[str, Any]:
        return {"keys": [_key(key) for key in list_keys(database)]}

    @router.post("/keys", status_code=201)
    def new_key(body: NewKey) -> dict[str, Any]:
        key, secret = create_key(
            database, body.owner, body.scopes, body.routes, rpm=body.requests_per_minute, tpm=body.tokens_per_minute
        )
        return {**_key(key), "secret": secret}

    @router.delete("/keys/{key_id}")
    def end_key(key_id: str) -> dict[str, Any]:
        return _key(revoke_key(database, key_id))


def _version(version: AdapterVersion) -> dict[str, Any]:
    """Everything but the probes, which are long."""
    fields = asdict(version)
    manifest = {name: value for name, value in version.manifest.items() if name != "probes"}
    return {**fields, "manifest": manifest, "probes": "probes" in version.manifest}


def _gate(status: GateStatus | None) -> dict[str, Any]:
    return {"gate": asdict(status or GateStatus())}


def _holding(holding: Holding) -> dict[str, Any]:
    return {**asdict(holding), "state": holding.state.value}


def _key(key: ApiKey) -> dict[str, Any]:
    """Without the hash of the secret."""
    fields = asdict(key)
    del fields["secret_hash"]
    return {**fields, "scopes": sorted(key.scopes), "routes": sorted(key.routes)}
