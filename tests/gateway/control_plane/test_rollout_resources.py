"""The operator API's rollouts, and its event stream over a real uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import httpx
import pytest
import uvicorn

from adapters.rollouts import Phase
from gateway.control_plane.app import create_app
from gateway.control_plane.resources import Services
from gateway.rollout.plan import to_json
from tests.support.rolling import pass_time, serving, until
from tests.support.traffic import begin, clear, quick_plan
from tests.support.waiting import PATIENCE
from tests.support.world import World

TOKEN = "the operator's token"


class Api:
    """The operator API over a World whose route r serves `stable`."""

    def __init__(self, world: World, controller, stable: str, candidate: str) -> None:
        self.world, self.controller, self.stable, self.candidate = world, controller, stable, candidate
        services = Services(world.settings, world.database, world.stores, controller)
        self.app = create_app(services, TOKEN)
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": f"Bearer {TOKEN}"}
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081", headers=headers)

    async def __call__(self, method: str, path: str, body=None) -> httpx.Response:
        return await self.http.request(method, f"/api/v1{path}", json=body)

    async def start(self, **more) -> dict:
        clear(self.world, self.candidate)
        body = {"route": "r", "version": self.candidate, "plan": to_json(quick_plan()), **more}
        answer = await self("POST", "/rollouts", body)
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture
async def api(world: World):
    made = Api(world, *await serving(world))
    yield made
    await made.http.aclose()


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


async def test_start_list_and_show(api: Api):
    assert "understudy gate" in refused(
        await api("POST", "/rollouts", {"route": "r", "version": api.candidate}), 409
    )
    made = await api.start()
    assert (made["phase"], made["candidate"], made["stable"]) == ("preparing", api.candidate, api.stable)
    await until(api.world, api.controller, Phase.RAMP)
    await pass_time(api.world, api.controller, 4)
    (listed,) = (await api("GET", "/rollouts?route=r")).json()["rollouts"]
    assert listed["weight"] == 0.2 and listed["harm"][0]["threshold"] > 0 and listed["steps"] == 2
    shown = (await api("GET", f"/rollouts/{made['id']}")).json()
    assert [event["kind"] for event in shown["events"]] == ["started", "moved"]
    assert shown["plan_body"]["name"] == "quick"
    assert (await api("GET", "/rollouts?route=none")).json() == {"rollouts": []}
    refused(await api("GET", "/rollouts/99"), 404)
    refused(await api("POST", "/rollouts", {"route": "r", "version": api.candidate}), 409)


async def test_a_bad_plan_is_refused_with_the_reason(api: Api):
    clear(api.world, api.candidate)
    plan = {**to_json(quick_plan()), "holdout": "90%"}
    message = refused(await api("POST", "/rollouts", {"route": "r", "version": api.candidate, "plan": plan}), 400)
    assert "holdout" in message and "\n" not in message


async def test_without_feedback_the_shipped_plan_does_not_wait_for_it(api: Api):
    made = await api.start(plan=None)
    names = {metric["name"] for metric in api.world.rollouts.get(made["id"]).plan["metric"]}
    assert "satisfaction" not in names and "error" in names


async def test_steering(api: Api):
    made = await api.start()
    number = made["id"]
    await until(api.world, api.controller, Phase.RAMP)
    generation = api.world.rollouts.get(number).generation
    changed = await api("PATCH", f"/rollouts/{number}", {"generation": generation, "weight": 0.1})
    assert changed.status_code == 200 and changed.json()["weight"] == 0.1
    stale = refused(await api("PATCH", f"/rollouts/{number}", {"generation": generation, "action": "pause"}), 409)
    assert "changed meanwhile" in stale
    for body in ({"generation": 9}, {"generation": 9, "weight": 0.1, "action": "pause"}):
        assert "either a weight or an action" in refused(await api("PATCH", f"/rollouts/{number}", body), 400)
    refused(await api("PATCH", f"/rollouts/{number}", {"generation": generation + 1, "weight": 2}), 400)
    refused(await api("PATCH", f"/rollouts/{number}", {"weight": 0.1}), 400)
    for action, phase in (("pause", "ramp"), ("resume", "ramp"), ("promote", "ramp"), ("rollback", "rolled_back")):
        generation = api.world.rollouts.get(number).generation
        body = {"generation": generation, "action": action, "reason": f"why {action}"}
        answer = await api("PATCH", f"/rollouts/{number}", body)
        assert answer.status_code == 200 and answer.json()["phase"] == phase, answer.text
    await pass_time(api.world, api.controller, 1)
    assert api.world.published().arms[0].version == api.stable


async def test_several_candidates(api: Api):
    second = api.world.push(seed=3)
    clear(api.world, second)
    clear(api.world, api.candidate)
    both = {"version": "", "candidates": [api.candidate, second]}
    for wrong, status, words in (
        ({"version": api.candidate, "candidates": [second]}, 400, "either a version, or candidates"),
        ({"version": ""}, 400, "either a version, or candidates"),
        ({"version": "", "candidates": [second, second]}, 400, "named twice"),
        ({"version": "", "candidates": [f"r@{n:012x}" for n in range(9)]}, 400, "at most 8"),
        ({"version": "", "candidates": [api.candidate, "r@999999999999"]}, 404, "does not exist"),
    ):  # fmt: skip
        body = {"route": "r", "plan": to_json(quick_plan()), **wrong}
        assert words in refused(await api("POST", "/rollouts", body), status)
    number = (await api.start(**both))["id"]
    await until(api.world, api.controller, Phase.RAMP)

    async def steer(**change) -> httpx.Response:
        generation = api.world.rollouts.get(number).generation
        return await api("PATCH", f"/rollouts/{number}", {"generation": generation, **change})

    assert "name the version" in refused(await steer(action="promote"), 400)
    assert "promote and rollback only" in refused(await steer(action="pause", version=second), 400)
    changed = (await steer(action="rollback", version=api.candidate, reason="no")).json()
    assert changed["phase"] == "ramp" and [c["state"] for c in changed["candidates"]] == ["dropped", "open"]
    assert "is no candidate" in refused(await steer(action="rollback", version=api.candidate), 409)
    assert (await steer(action="promote", version=second)).status_code == 200
    await until(api.world, api.controller, Phase.PROMOTED)
    assert api.world.route().version == second


async def test_an_ended_rollout_cannot_be_steered_through_its_successor(api: Api):
    first = await api.start()
    await until(api.world, api.controller, Phase.RAMP)
    body = {"generation": api.world.rollouts.get(first["id"]).generation, "action": "rollback"}
    assert (await api("PATCH", f"/rollouts/{first['id']}", body)).status_code == 200
    third = api.world.push(seed=3)
    begin(api.world, third)
    assert "has ended" in refused(await api("PATCH", f"/rollouts/{first['id']}", {"generation": 1, "action": "pause"}), 409)


@contextlib.asynccontextmanager
async def served(app):
    """The application on a real server: an in-memory transport would buffer the stream."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_events_stream_as_they_happen(api: Api):
    made = await api.start()
    kinds = []
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with served(api.app) as url, httpx.AsyncClient(headers=headers, timeout=PATIENCE) as http:
        events = f"{url}/api/v1/rollouts/{made['id']}/events"
        async with asyncio.timeout(PATIENCE), http.stream("GET", events) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kinds.append(line.removeprefix("event: "))
                    if kinds == ["started"]:
                        await until(api.world, api.controller, Phase.RAMP)
                    elif kinds == ["started", "moved"]:
                        body = {"generation": api.world.rollouts.get(made["id"]).generation, "action": "rollback"}
                        await api("PATCH", f"/rollouts/{made['id']}", body)
                elif line.startswith("data: "):
                    json.loads(line.removeprefix("data: "))
        later = await http.get(f"{events}?after=2")
        missing = await http.get(f"{url}/api/v1/rollouts/99/events")
    assert kinds == ["started", "moved", "rolled_back", "end"]
    assert "event: moved" not in later.text and "event: rolled_back" in later.text
    assert missing.status_code == 404
