"""Alertmanager's webhook: what rolls back, what does not, and what is tried again. tests/deploy runs a real one."""

from __future__ import annotations

import datetime
from unittest.mock import patch

import httpx
import pytest

from adapters.errors import Conflict, DatabaseError
from adapters.rollouts import Phase
from gateway.control_plane.app import MAX_BODY, create_app
from gateway.control_plane.resources import Services
from gateway.rollout import operations
from gateway.rollout.listing import as_json
from tests.support.rolling import serving, until
from tests.support.traffic import begin
from tests.support.world import World

TOKEN = "the operator's token"


class Hook:
    """POST /api/v1/alerts of a World in which route r has a rollout at a share of the traffic."""

    def __init__(self, world: World, controller) -> None:
        self.world = world
        app = create_app(Services(world.settings, world.database, world.stores, controller), TOKEN)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8081")

    async def send(self, *alerts: dict, token: str = TOKEN, **more) -> httpx.Response:
        body = {"version": "4", "receiver": "understudy", "status": "firing", "alerts": list(alerts), **more}
        return await self.http.post("/api/v1/alerts", json=body, headers={"authorization": f"Bearer {token}"})

    async def results(self, *alerts: dict, **more) -> list[str]:
        answer = await self.send(*alerts, **more)
        assert answer.status_code == 200, answer.text
        return [one["result"] for one in answer.json()["results"]]

    @property
    def rollout(self):
        return self.world.rollouts.newest()[0]


@pytest.fixture
async def hook(world: World):
    controller, _, candidate = await serving(world)
    begin(world, candidate)
    await until(world, controller, Phase.RAMP)
    made = Hook(world, controller)
    yield made
    await made.http.aclose()


def alert(route: str | None = "r", action: str = "rollback", status: str = "firing", began: float | None = None) -> dict:
    labels = {"alertname": "SloBurnsTooFast", "understudy_action": action, "severity": "page"}
    body = {"status": status, "labels": labels, "annotations": {"summary": "60% bad"}, "fingerprint": "x"}
    if route is not None:
        labels["route"] = route
    if began is not None:
        body["startsAt"] = datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat()
    return body


async def test_a_firing_alert_rolls_back_once(hook: Hook):
    assert await hook.results(alert(action="page"), alert(status="resolved")) == ["ignored", "ignored"]
    assert hook.rollout.open
    assert await hook.results(alert()) == ["rollout 1 rolled back"]
    assert hook.rollout.phase is Phase.ROLLED_BACK
    assert hook.rollout.reason == "alert SloBurnsTooFast: 60% bad"
    (said,) = await hook.results(alert())
    assert "no rollout that could be rolled back" in said
    assert len(hook.world.rollouts.newest()) == 1
    last = hook.world.rollouts.events(hook.rollout.id)[-1]
    assert (last.actor, last.numbers["cause"], as_json(hook.rollout)["cause"]) == ("alertmanager", "alert", "alert")


async def test_the_same_alert_twice_in_one_body(hook: Hook):
    first, second = await hook.results(alert(), alert())
    assert first == "rollout 1 rolled back" and "no rollout" in second


async def test_an_alert_that_began_before_the_rollout_says_nothing_about_it(hook: Hook):
    began = hook.rollout.started_at
    assert await hook.results(alert(began=began - 60)) == ["ignored: it began before rollout 1 did"]
    assert hook.rollout.open
    assert await hook.results(alert(began=began + 1)) == ["rollout 1 rolled back"]


async def test_alerts_without_a_route_or_for_an_unknown_one_roll_nothing_back(hook: Hook):
    without, unknown = await hook.results(alert(route=None), alert(route="other"))
    assert without == "ignored: it has no label route" and "route other has no rollout" in unknown
    assert hook.rollout.open


async def test_without_the_token_nothing_is_read(hook: Hook):
    answer = await hook.send(alert(), token="another")
    assert answer.status_code == 401 and "operator token is needed" in answer.json()["error"]["message"]
    assert hook.rollout.open


async def test_what_is_no_webhook_is_refused(hook: Hook):
    headers = {"authorization": f"Bearer {TOKEN}"}
    for body in ({"alerts": "x"}, {}, [], {"alerts": [{"labels": {"route": 1}}]}):
        answer = await hook.http.post("/api/v1/alerts", json=body, headers=headers)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"]["message"], body
    huge = {"alerts": [alert() | {"annotations": {"summary": "x" * MAX_BODY}}]}
    assert (await hook.http.post("/api/v1/alerts", json=huge, headers=headers)).status_code == 413
    assert hook.rollout.open


async def test_a_rollout_that_changes_meanwhile_is_tried_again(hook: Hook):
    real, fails = operations.roll_back, [2]

    def busy(*args, **kwargs):
        if fails[0]:
            fails[0] -= 1
            raise Conflict("rollout 1 changed meanwhile")
        return real(*args, **kwargs)

    with patch.object(operations, "roll_back", busy):
        assert await hook.results(alert()) == ["rollout 1 rolled back"]


@pytest.mark.parametrize("error", [Conflict("rollout 1 changed meanwhile"), DatabaseError("the database is away")],
                         ids=["conflict", "database"])
async def test_what_cannot_be_done_now_makes_alertmanager_try_again(hook: Hook, error: Exception):
    with patch.object(operations, "roll_back", side_effect=error):
        answer = await hook.send(alert())
    assert answer.status_code == 503 and str(error) in answer.json()["error"]["message"]
    assert await hook.results(alert()) == ["rollout 1 rolled back"]


async def test_left_out_alerts_are_told(hook: Hook, caplog: pytest.LogCaptureFixture):
    await hook.results(truncatedAlerts=3)
    assert "raise max_alerts" in caplog.text
