"""Starting, keys, stopping and dying: a real `serve` with real workers, scripted engines, real clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from adapters.keys import create_key, revoke_key
from tests.support.serving import (
    ASK,
    CHAT,
    STABLE,
    Asked,
    client,
    obliging,
    routed,
    scripted_engine,
    serving,
)
from tests.support.waiting import PATIENCE, eventually

KEYED = "[gateway]\nrequire_keys = true\n"


async def test_keys_scopes_routes_limits_and_revocation(tmp_path: Path) -> None:
    with serving(tmp_path, config=KEYED) as gateway:
        gateway.publish({})
        _, plain = create_key(gateway.database, "ann", ["inference"])
        _, other = create_key(gateway.database, "bob", ["inference"], routes=["math"])
        limited_key, limited = create_key(gateway.database, "cy", ["inference"], rpm=3)
        _, operator = create_key(gateway.database, "op", ["inference", "operator"])
        gateway.start()
        async with scripted_engine(obliging) as url, client(gateway) as http:
            await routed(gateway, {"e0": url})

            async def ask(secret: str | None, model: str = "support", **headers: str) -> httpx.Response:
                given = headers | ({"authorization": f"Bearer {secret}"} if secret else {})
                return await http.post(CHAT, json=ASK | {"model": model}, headers=given)

            assert (await ask(None)).json()["error"]["code"] == "invalid_api_key"
            assert (await ask("us-wrong")).status_code == 401
            assert (await ask(plain)).status_code == 200
            assert (await ask(None, **{"x-api-key": plain})).status_code == 200
            assert (await ask(other)).status_code == 403
            assert (await ask(plain, STABLE)).status_code == 403
            assert (await ask(operator, STABLE)).status_code == 200
            assert (await http.get("/v1/models")).status_code == 401
            listed = (await http.get("/v1/models", headers={"authorization": f"Bearer {plain}"})).json()["data"]
            assert [m["id"] for m in listed] == ["support", "base"]
            answers = [await ask(limited) for _ in range(5)]
            assert [a.status_code for a in answers[:3]] == [200] * 3
            assert answers[3].status_code == 429 and int(answers[3].headers["retry-after"]) >= 1
            assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
            answer = (await ask(plain)).json()
            given = {"response_id": answer["id"], "score": 0, "kind": "thumb"}
            refused = await http.post("/v1/feedback", json=given, headers={"authorization": f"Bearer {operator}"})
            assert refused.status_code == 403
            revoke_key(gateway.database, limited_key.id)
            async with asyncio.timeout(PATIENCE):
                while (await ask(limited)).status_code != 401:
                    await asyncio.sleep(0.02)
            assert (await ask(plain)).status_code == 200


async def test_sigterm_loses_no_request(tmp_path: Path) -> None:
    """Requests in flight finish, keep-alive clients are told to leave, and nobody gets a reset."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await obliging(asked, writer)

    with serving(tmp_path, workers=2) as gateway:
        gateway.publish({})
        gateway.start()
        async with scripted_engine(script) as url:
            await routed(gateway, {"e0": url})
            failures: list[str] = []
            answered = 0
            stopping = asyncio.Event()

            async def user() -> None:
                nonlocal answered
                async with client(gateway) as http:
                    while True:
                        try:
                            answer = await http.post(CHAT, json=ASK | {"stream": True})
                        except httpx.ConnectError:
                            assert stopping.is_set()
                            return  # the port is closed: a load balancer would have gone elsewhere
                        except httpx.TransportError as error:
                            failures.append(repr(error))
                            return
                        if "[DONE]" not in answer.text:
                            failures.append(answer.text)
                        answered += 1

            users = [asyncio.create_task(user()) for _ in range(16)]
            await eventually(lambda: answered >= 32 or failures)
            stopping.set()
            code = await asyncio.to_thread(gateway.stop)
            await asyncio.gather(*users)
            assert (code, failures) == (0, [])
            assert answered > 32  # those in flight too
        with gateway.database.read() as connection:
            stored = connection.exec_driver_sql("select count(*) from responses where outcome = 'ok'").scalar()
        assert stored == answered


async def test_a_killed_worker_is_replaced_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as gateway:
        gateway.publish({})
        gateway.start()
        assert gateway.process is not None
        workers = _children(gateway.process.pid)
        assert len(workers) >= 2
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if httpx.get(gateway.url + "/healthz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise AssertionError(gateway.log.read_text())
        replaced = _children(gateway.process.pid)
        os.kill(gateway.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(_alive(pid) for pid in replaced):
            assert time.monotonic() < deadline, "workers outlive their killed parent"
            time.sleep(0.1)


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_port_in_use_and_an_open_door_are_refused_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as gateway, socket.socket() as taken:
        taken.bind(("127.0.0.1", gateway.port))
        taken.listen()
        with pytest.raises(AssertionError, match="Address already in use"):
            gateway.start()
    with (
        serving(tmp_path, config='[gateway]\nhost = "0.0.0.0"\n') as gateway,
        pytest.raises(AssertionError, match="key create"),
    ):
        gateway.start()
