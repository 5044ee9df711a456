from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest

from adapters.errors import DatabaseError
from adapters.fleet_store import CONTROLLER_LEASE
from adapters.types import Stage
from gateway.control_plane.app import MAX_BODY, create_app
from gateway.control_plane.controller import Controller
from gateway.control_plane.resources import Services
from tests.support.world import World

TOKEN = "the operator's token"


class Api:
    """The operator API over a World, called as httpx calls a server."""

    def __init__(self, world: World, controller: Controller) -> None:
        self.world = world
        self.controller = controller
        services = Services(world.settings, world.database, world.stores, controller)
        transport = httpx.ASGITransport(create_app(services, TOKEN))
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8081", headers={"authorization": f"Bearer {TOKEN}"}
        )

    async def __call__(self, method: str, path: str, body=None, **more) -> httpx.Response:
        return await self.http.request(method, path, json=body, **more)


@pytest.fixture
async def api(world: World):
    made = Api(world, await world.controller())
    yield made
    await made.http.aclose()


def error_of(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return body["error"]


async def test_adapters(api: Api):
    version = api.world.push()
    api.world.push("s", 1)
    listed = (await api("GET", "/api/v1/adapters?route=r")).json()["adapters"]
    assert [v["name"] for v in listed] == [version]
    assert listed[0]["probes"] is True and "probes" not in listed[0]["manifest"]
    shown = (await api("GET", f"/api/v1/adapters/{version}")).json()
    assert shown["events"][0]["reason"] == "registered" and shown["holdings"] == []
    assert (await api("GET", "/api/v1/adapters?stage=archived")).json() == {"adapters": []}
    assert error_of(await api("GET", "/api/v1/adapters?stage=nonsense"), 400)["param"] == "query.stage"
    error_of(await api("GET", "/api/v1/adapters/r@000000000000"), 404)
    error_of(await api("GET", "/api/v1/adapters/nonsense"), 400)


async def test_a_version_set_by_hand_says_so(api: Api):
    version = api.world.push()
    listed = (await api("GET", "/api/v1/adapters")).json()["adapters"]
    assert listed[0]["gate"]["verdict"] == "none"
    assert (await api("PUT", "/api/v1/routes/r/version", {"version": version})).status_code == 202
    gate = (await api("GET", f"/api/v1/adapters/{version}")).json()["gate"]
    assert (gate["verdict"], gate["actor"]) == ("overridden", "operator-api")
    assert gate["reason"] == "set by an operator without a gate"


async def test_archive_and_release(api: Api):
    version = api.world.push()
    api.world.registry.quarantine(version, "test", "NaN")
    error_of(await api("POST", f"/api/v1/adapters/{version}/release", {"reason": " "}), 409)
    error_of(await api("POST", f"/api/v1/adapters/{version}/release"), 400)
    assert (await api("POST", f"/api/v1/adapters/{version}/release", {"reason": "hardware"})).json()["stage"] == "candidate"
    assert (await api("POST", f"/api/v1/adapters/{version}/archive")).json()["stage"] == "archived"
    assert api.world.registry.get(version).stage is Stage.ARCHIVED
    error_of(await api("POST", f"/api/v1/adapters/{version}/archive", {"reason": "again"}), 409)


async def test_routes(api: Api):
    version = api.world.push()
    assert (await api("POST", "/api/v1/routes", {"name": "other"})).status_code == 201
    error_of(await api("POST", "/api/v1/routes", {"name": "other"}), 409)
    error_of(await api("POST", "/api/v1/routes", {"name": "base"}), 400)
    error_of(await api("POST", "/api/v1/routes", {"name": "Not A Name"}), 400)
    generation = (await api("GET", "/api/v1/routes/r")).json()["generation"]
    error_of(await api("PUT", "/api/v1/routes/r/version", {"version": version, "generation": generation + 1}), 409)
    changed = await api("PUT", "/api/v1/routes/r/version", {"version": version, "generation": generation})
    assert changed.status_code == 202 and changed.json()["target"] == version
    await api.world.ticks(api.controller)
    assert (await api("GET", "/api/v1/routes/r")).json()["version"] == version
    assert (await api("PUT", "/api/v1/routes/r/version", {"version": "base"})).json()["version"] is None
    error_of(await api("PUT", "/api/v1/routes/none/version", {"version": version}), 404)
    assert (await api("DELETE", "/api/v1/routes/other")).status_code == 204
    error_of(await api("DELETE", "/api/v1/routes/r"), 409)
    assert [route["name"] for route in (await api("GET", "/api/v1/routes")).json()["routes"]] == ["r"]


async def test_engines_show_what_they_hold(api: Api):
    version = api.world.push()
    await api.world.serve(api.controller, version)
    (engine,) = (await api("GET", "/api/v1/engines")).json()["engines"]
    assert engine["up"] is True and engine["name"] == "e0.sock"
    assert [(h["version"], h["state"], h["probe"]["verdict"]) for h in engine["holdings"]] == [(version, "ready", "match")]


async def test_keys(api: Api):
    body = {"owner": "alice", "scopes": ["inference"], "routes": ["r"], "requests_per_minute": 5}
    made = await api("POST", "/api/v1/keys", body)
    assert made.status_code == 201 and made.json()["secret"].startswith("us-")
    listed = (await api("GET", "/api/v1/keys")).json()["keys"]
    assert listed[0]["owner"] == "alice" and "secret_hash" not in listed[0] and "secret" not in listed[0]
    gone = (await api("DELETE", f"/api/v1/keys/{listed[0]['id']}")).json()
    assert gone["revoked_at"]
    error_of(await api("DELETE", "/api/v1/keys/key-0"), 404)
    error_of(await api("POST", "/api/v1/keys", {"owner": "a", "scopes": ["root"]}), 400)
    unknown = error_of(await api("POST", "/api/v1/keys", {"owner": "a", "scopes": ["inference"], "rpm": 5}), 400)
    assert unknown["param"] == "rpm"


async def ticking(api: Api, wanted):
    """The answer, with the controller's loop going on beside it."""
    asking = asyncio.ensure_future(wanted)
    while not asking.done():
        await api.controller.tick()
        await asyncio.sleep(0.02)
        api.world.clock.now += 0.02
    return await asking


async def test_verify_probes_afresh_on_every_engine(world_of):
    world = await world_of(2)
    api = Api(world, await world.controller())
    version = world.push()
    answer = (await ticking(api, api("POST", f"/api/v1/adapters/{version}/verify"))).json()
    assert answer["ok"] is True
    assert [(e["engine"], e["verdict"]) for e in answer["engines"]] == [("e0.sock", "match"), ("e1.sock", "match")]
    world.clock.now += 1.0
    world.engines[1].misbehave.ignore.add(version)
    answer = (await ticking(api, api("POST", f"/api/v1/adapters/{version}/verify"))).json()
    assert answer["ok"] is False
    assert {e["engine"]: e["verdict"] for e in answer["engines"]} == {"e0.sock": "match", "e1.sock": "ignored"}
    assert world.engines[0].loads(version) == 1  # it was probed again, not loaded again
    await api.http.aclose()


async def test_verify_says_what_is_in_the_way(api: Api):
    version = api.world.push()
    api.world.registry.archive(version)
    assert "archived" in error_of(await api("POST", f"/api/v1/adapters/{version}/verify"), 409)["message"]
    error_of(await api("POST", "/api/v1/adapters/r@000000000000/verify"), 404)
    other = api.world.push(seed=3)
    api.world.engines[0].stop()
    await api.world.ticks(api.controller, 2)
    assert "no engine is up" in error_of(
        await ticking(api, api("POST", f"/api/v1/adapters/{other}/verify")), 503
    )["message"]
    await api.controller.lease.release()
    assert "does not lead" in error_of(await api("POST", f"/api/v1/adapters/{other}/verify"), 409)["message"]


PATHS = ["/api/v1/adapters", "/api/v1/routes", "/api/v1/engines", "/api/v1/keys", "/api/v1/nothing", "/api/v1"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
async def test_nothing_without_the_token(api: Api, path, header):
    headers = {} if header is None else {"authorization": header.encode()}
    answer = await api.http.request("GET", path, headers={"authorization": "", **headers})
    assert error_of(answer, 401)["code"] == "invalid_operator_token"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_needs_no_token_and_any_host(api: Api):
    open_to_all = {"authorization": "", "host": "understudy.monitoring.svc:8081"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await api.http.get(path, headers=open_to_all)).status_code == 200
    assert (await api.http.get("/", headers={"authorization": ""})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "", "[", "localhost.evil"])
async def test_foreign_hosts_are_refused_even_with_the_token(api: Api, host):
    error_of(await api("GET", "/api/v1/keys", headers={"host": host}), 403)
    error_of(await api("GET", "/", headers={"host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8081", "127.0.0.1:9", "[::1]:8081", "10.0.0.7:8081"])
async def test_our_own_names_are_fine(api: Api, host):
    assert (await api("GET", "/api/v1/keys", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8081", ""])
async def test_other_origins_are_refused(api: Api, origin):
    error_of(await api("DELETE", "/api/v1/keys/x", headers={"origin": origin}), 403)


async def test_the_page_itself_may_ask(api: Api):
    answer = await api("GET", "/api/v1/keys", headers={"origin": "http://127.0.0.1:8081"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    page = await api("GET", "/")
    assert "innerHTML" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]


async def test_preflights_get_nothing(api: Api):
    headers = {"origin": "http://127.0.0.1:8081", "access-control-request-method": "POST"}
    answer = await api("OPTIONS", "/api/v1/keys", headers=headers)
    assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/api/v2/keys", "/api/v1/keys/"])
async def test_nothing_else_is_there(api: Api, path):
    assert error_of(await api("GET", path), 404)["code"] == "not_found"


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'"x"', b"\xff", b'{"name": 3}', b"", b"9" * 5000])
async def test_broken_bodies(api: Api, content):
    error_of(await api.http.post("/api/v1/routes", content=content, headers={"content-type": "application/json"}), 400)


async def test_large_bodies(api: Api):
    answer = await api.http.post("/api/v1/routes", content=b"x" * (MAX_BODY + 1))
    error_of(answer, 413)


async def test_wrong_methods(api: Api):
    answer = await api("PATCH", "/api/v1/keys")
    error_of(answer, 405)
    assert "allow" in answer.headers


async def test_a_lost_database_is_503(api: Api, monkeypatch):
    def lost(*_args, **_more):
        raise DatabaseError("database x cannot be reached: start it")

    monkeypatch.setattr(api.world.routes, "list", lost)
    answer = await api("GET", "/api/v1/routes")
    assert "cannot be reached" in error_of(answer, 503)["message"] and answer.headers["retry-after"]


async def test_a_bug_is_logged_and_its_details_are_kept(api: Api, monkeypatch, caplog):
    def bug(*_args, **_more):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.world.routes, "list", bug)
    caplog.set_level(logging.ERROR)
    assert "secret" not in error_of(await api("GET", "/api/v1/routes"), 500)["message"]
    assert "secret detail" in caplog.text


async def test_readiness_names_the_leader(api: Api):
    ready = (await api("GET", "/readyz")).json()
    assert ready["leads"] is True and ready["leader"] == "one"
    await api.controller.lease.release()
    error_of(await api("GET", "/readyz"), 503)
    assert api.world.fleet.lease_holder(CONTROLLER_LEASE, 0.0) is None


async def test_metrics_are_prometheus_text(api: Api):
    text = (await api("GET", "/metrics")).text
    assert json.dumps(text)  # decodable
    assert "Traceback" not in text


async def test_declared_routes_are_not_deleted(world_of):
    from gateway.config import RouteSettings

    world = await world_of()
    world.settings = world.settings.model_copy(update={"route": (RouteSettings(name="declared"),)})
    api = Api(world, await world.controller())
    world.routes.create("declared")
    assert "configuration file" in error_of(await api("DELETE", "/api/v1/routes/declared"), 400)["message"]
    await api.http.aclose()
