"""The guard's HTTP side without a guard: what it refuses, and how."""

from __future__ import annotations

import httpx
import pytest

from gateway.guard.app import create_app
from gateway.guard.metrics import GuardMetrics
from monitors.llama_guard.batching import Overloaded
from monitors.llama_guard.types import Result


class Stub:
    """A guard that says what a test wants: the HTTP side is what is tested here."""

    def __init__(self):
        self.reason, self.waiting, self.backend, self.categories = "", 3, "stub", {"S1": "Violent Crimes"}
        self.results = [Result("a", True, 0.9, ("S1",), scores={"S1": 0.9})]
        self.error = None
        self.seen = None

    async def screen(self, items, categories):
        self.seen = (items, categories)
        if self.error:
            raise self.error
        return self.results


@pytest.fixture
def guard():
    return Stub()


@pytest.fixture
def post(guard):
    app = create_app(guard, GuardMetrics(), "key")

    async def send(path="/v1/screen", body=None, method="POST", key="key"):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://guard") as client:
            content = body if isinstance(body, bytes) else None
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return await client.request(method, path, content=content, json=None if content else body, headers=headers)

    return send


ITEM = {"id": "a", "role": "user", "messages": [{"role": "user", "content": "x"}]}


async def test_a_result_goes_out_as_agreed(post, guard):
    answer = await post(body={"items": [ITEM], "categories": ["S1"]})
    assert answer.json() == {"results": [{
        "id": "a", "unsafe": True, "score": 0.9, "categories": ["S1"], "unavailable": False, "reason": "",
        "scores": {"S1": 0.9},
    }]}  # fmt: skip
    ((item,), categories) = guard.seen
    assert (item.id, item.role, item.messages[0]["content"], item.text, categories) == ("a", "user", "x", None, ("S1",))


@pytest.mark.parametrize(("body", "param"), [
    (b"{", None), ({}, "items"), ({"items": [{"id": "a", "role": "tool"}]}, "items.0.role"), ({"items": [], "x": 1}, "x"),
    ({"items": [ITEM] * 257}, "items"), ({"items": [ITEM | {"id": "i" * 201}]}, "items.0.id"), ([], None),
])  # fmt: skip
async def test_what_is_wrong_with_a_body_is_named(post, body, param):
    answer = await post(body=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_not_ready_and_overloaded_are_503_with_retry_after(post, guard):
    guard.error = Overloaded("9 texts wait already, 8 may")
    busy = await post(body={"items": [ITEM]})
    guard.reason = "it loads"
    waiting, ready = await post(body={"items": [ITEM]}), await post("/readyz", method="GET")
    for answer, words in ((busy, "9 texts wait"), (waiting, "not ready: it loads"), (ready, "not ready: it loads")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert words in answer.json()["error"]["message"]
    assert (await post("/healthz", method="GET")).status_code == 200
    assert "understudy_guard_refused_total 2.0" in (await post("/metrics", method="GET")).text


async def test_the_key_is_needed_for_verdicts_only(post):
    assert (await post(body={"items": []}, key="")).status_code == 401
    assert (await post(body={"items": []}, key="other")).status_code == 401
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await post(path, method="GET", key="")).status_code == 200


async def test_other_paths_methods_and_bugs_are_enveloped(post, guard):
    assert (await post("/v1/other")).status_code == 404
    wrong = await post("/v1/screen", method="GET")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    guard.error = ZeroDivisionError()
    assert (await post(body={"items": [ITEM]})).json()["error"]["code"] == "internal_error"
    assert (await post(body=b"x" * (16 * 1024**2 + 1))).status_code == 413
