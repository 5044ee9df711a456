"""The whole data plane over real sockets: a real `serve` with real workers, scripted engines, real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.raw_http import wire
from tests.support.serving import (
    ASK,
    CHAT,
    OTHER,
    SSE_HEAD,
    STABLE,
    Asked,
    Gateway,
    client,
    event,
    http_chunk,
    json_answer,
    obliging,
    routed,
    scripted_engine,
    serving,
)
from tests.support.waiting import PATIENCE, at_rest, eventually


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Gateway]:
    """One whose counters and records are this test's alone; the others share theirs (conftest.py)."""
    with serving(tmp_path) as running:
        running.publish({})
        yield running.start()


async def test_an_answer_and_its_headers(gateway: Gateway) -> None:
    seen: list[Asked] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        seen.append(asked)
        await obliging(asked, writer)

    async with scripted_engine(script) as url, client(gateway) as http:
        await routed(gateway, {"e0": url})
        body = b'{"messages":[],"model" :"support","x_unknown":{"a":[1e400,"\\u00e9"]}, "seed":7}'
        body = body.replace(b"1e400", b"1E40")
        headers = {
            "content-type": "application/json", "authorization": "Bearer anything", "x-request-id": "mine-1",
            "x-data-parallel-rank": "3", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }  # fmt: skip
        begun = asyncio.get_running_loop().time()
        answer = await http.post(CHAT, content=body, headers=headers)
        took = asyncio.get_running_loop().time() - begun
        assert answer.status_code == 200
        assert answer.json()["model"] == "support"
        assert answer.headers["x-understudy-version"] == STABLE
        assert answer.headers["x-understudy-route"] == "support"
        assert answer.headers["x-request-id"] == "mine-1"
        assert 0 <= float(answer.headers["x-understudy-overhead-ms"]) <= took * 1000
        minted = answer.json()["id"].removeprefix("chatcmpl-")
        asked = seen[0]
        assert asked.body == body.replace(b'"support"', f'"{STABLE}"'.encode())
        assert asked.headers["x-request-id"] == minted != "mine-1"
        assert asked.headers["traceparent"] == headers["traceparent"]
        assert not {"authorization", "x-data-parallel-rank"} & set(asked.headers)


async def test_a_stream_is_restamped_and_the_extra_usage_removed(fresh: Gateway) -> None:
    async with scripted_engine(obliging) as url, client(fresh) as http:
        await routed(fresh, {"e0": url})
        for asked_for in (False, True):
            extra = {"stream_options": {"include_usage": True}} if asked_for else {}
            text = (await http.post(CHAT, json=ASK | {"stream": True} | extra)).text
            events = [line[6:] for line in text.split("\n\n") if line]
            assert events[-1] == "[DONE]"
            chunks = [json.loads(e) for e in events[:-1]]
            assert {c["model"] for c in chunks} == {"support"}
            assert ("usage" in chunks[-1]) is asked_for
            assert "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"]) == "hello"
        output = {"route": "support", "version": STABLE, "type": "output"}
        counted = partial(fresh.metric, "understudy_tokens_total", **output)
        await eventually(lambda: counted() >= 4.0)  # the second answer is counted once it has left
        assert counted() == 4.0


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", CHAT, b"{", 400, None),
        ("POST", CHAT, b'{"model":"nope"}', 404, "model_not_found"),
        ("POST", CHAT, b'{"model":"support@cccccccccccc"}', 404, "model_not_found"),
        ("POST", CHAT, b'{"model":"support","priority":1}', 400, "unsupported_parameter"),
        ("POST", CHAT, b'{"model":"support","model":"base"}', 400, "duplicate_key"),
        ("POST", CHAT, b"x" * (8 * 1024**2 + 1), 413, "body_too_large"),
        ("GET", CHAT, None, 405, "method_not_allowed"),
        ("POST", "/v1/load_lora_adapter", b"{}", 404, "not_found"),
        ("POST", "/adapters", b"{}", 404, "not_found"),
        ("POST", "/invocations", b"{}", 404, "not_found"),
        ("POST", "/v1/chat/completions/", b"{}", 404, "not_found"),
        ("POST", "//v1/chat/completions", b"{}", 404, "not_found"),
        ("GET", "/metrics", None, 404, "not_found"),
        ("GET", "/v1/models/nope", None, 404, "model_not_found"),
        ("DELETE", "/v1/models", None, 405, "method_not_allowed"),
        ("POST", "/v1/feedback", b"[]", 400, None),
    ],
)
async def test_refusals_are_enveloped(
    gateway: Gateway, method: str, path: str, body: bytes | None, status: int, code: str | None
) -> None:
    async with client(gateway) as http:
        answer = await http.request(method, path, content=body, headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), error
        assert set(error) == {"message", "type", "param", "code"} and error["message"]


async def test_a_client_that_will_not_stop_sending_still_reads_its_refusal(gateway: Gateway) -> None:
    """It reads while it sends: on a slow machine that takes longer than a gateway listens to whom it has refused."""
    async with wire(gateway) as connection:
        reading = asyncio.create_task(connection.rest())
        connection.send(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n" % CHAT.encode())
        for _ in range(200):
            connection.send(b"x" * 100_000)
            await asyncio.sleep(0.001)
        answer = await reading
    assert (
        answer.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in answer and b"connection: close" in answer.lower()
    )


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    async with scripted_engine(obliging) as url:
        await routed(gateway, {"e0": url})
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for name in ("support", "nope", "base", "support"):
            body = json.dumps(ASK | {"model": name}).encode()
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
            )
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = (await asyncio.wait_for(reader.read(), PATIENCE)).decode()
        statuses = [line.split(" ")[1] for line in text.split("\r\n") if line.startswith("HTTP/1.1")] or text
        assert [part.split(" ")[0] for part in text.split("HTTP/1.1 ")[1:]] == ["200", "404", "200", "200", "200"], (
            statuses
        )
        writer.close()


@pytest.mark.parametrize(
    "request_", [b"rubbish\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
)
async def test_what_is_not_http_is_refused(gateway: Gateway, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_)
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_chunked_bodies_old_clients_and_expect(gateway: Gateway) -> None:
    async with scripted_engine(obliging) as url:
        await routed(gateway, {"e0": url})
        body = json.dumps(ASK | {"stream": True}).encode()
        head = b"POST %b HTTP/%b\r\nhost: x\r\n" % (CHAT.encode(), b"%b")
        chunked = b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, len(body), 9))
        cases = [
            (head % b"1.1" + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n", chunked + b"0\r\n\r\n"),
            (head % b"1.0" + b"content-length: %d\r\n\r\n" % len(body), body),
            (
                head % b"1.1" + b"connection: close\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body),
                body,
            ),
        ]
        for start, rest in cases:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(start)
            if b"expect" in start:
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(rest)
            text = await asyncio.wait_for(reader.read(), PATIENCE)
            assert text.startswith(b"HTTP/1.1 200 OK") and b"data: [DONE]\n\n" in text
            assert (b"transfer-encoding: chunked" in text) is (b"HTTP/1.0" not in start)
            writer.close()


async def test_without_engines_503_says_when_to_come_back(gateway: Gateway) -> None:
    for engines in ({}, {"gone": f"http://127.0.0.1:{free_port()}"}):
        async with client(gateway) as http, asyncio.timeout(PATIENCE):
            await routed(gateway, engines)
            while True:
                answer = await http.post(CHAT, json=ASK)
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
                if (await http.get("/readyz")).status_code == 503:  # a lost engine is passed over for moments only
                    break
            assert (await http.get("/healthz")).status_code == 200


async def test_engine_errors_are_translated(gateway: Gateway) -> None:
    answers = {
        "a": (
            b'{"error":{"message":"bad `support@aaaaaaaaaaaa` thing","type":"BadRequestError","param":null,"code":400}}',
            "400 Bad",
        ),
        "b": (b"<html>oops</html>", "500 Internal"),
        "c": (b'{"detail":"Not Found"}', "404 Not Found"),
        "d": (b'{"error":"Unauthorized"}', "401 Unauthorized"),
    }

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(*answers[asked.json["seed"]]))

    async with scripted_engine(script) as url, client(gateway) as http:
        await routed(gateway, {"e0": url})
        found = {}
        for seed in answers:
            answer = await http.post(CHAT, json=ASK | {"seed": seed})
            found[seed] = answer.status_code
            assert isinstance(answer.json()["error"]["message"], str)
            assert "aaaaaaaaaaaa" not in answer.text
        assert found == {"a": 400, "b": 502, "c": 404, "d": 502}


async def test_failover_before_the_first_byte(gateway: Gateway) -> None:
    asked_bad = 0

    async def dying(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal asked_bad
        asked_bad += 1
        raise ConnectionError

    async def empty(asked: Asked, writer: asyncio.StreamWriter) -> None:
        message = f"The model `{asked.json['model']}` does not exist."
        error = {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}
        writer.write(json_answer(error, "404 Not Found"))

    gone = f"http://127.0.0.1:{free_port()}"
    async with (
        scripted_engine(dying) as bad,
        scripted_engine(empty) as lost,
        scripted_engine(obliging) as good,
        client(gateway) as http,
    ):
        await routed(gateway, {"bad": bad, "lost": lost, "gone": gone, "good": good})
        answers = await asyncio.gather(*(http.post(CHAT, json=ASK) for _ in range(40)))
        assert [a.status_code for a in answers] == [200] * 40
        assert asked_bad < 40
        await routed(gateway, {"lost": lost})
        answer = await http.post(CHAT, json=ASK)
        assert answer.status_code == 503 and "retry-after" in answer.headers
    assert gateway.metric("understudy_failovers_total", engine="lost") >= 1


@pytest.mark.parametrize("how", ["cut", "error", "no-end", "rubbish"])
async def test_a_failure_in_mid_stream_is_seen(gateway: Gateway, how: str) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + event(asked, "he"))
        await writer.drain()
        await asyncio.sleep(0.05)
        if how == "cut":
            raise ConnectionError
        if how == "rubbish":
            writer.write(b"zzz not a chunk\r\n")
        if how == "error":
            writer.write(http_chunk(b'data: {"error":{"message":"EngineCore died","type":"x","code":500}}\n\n'))
            writer.write(http_chunk(b"data: [DONE]\n\n"))
        writer.write(http_chunk(b""))

    async with scripted_engine(script) as url, client(gateway) as http:
        await routed(gateway, {"e0": url})
        answer = await http.post(CHAT, json=ASK | {"stream": True})
        events = [line[6:] for line in answer.text.split("\n\n") if line]
        assert json.loads(events[0])["choices"][0]["delta"]["content"] == "he"
        assert set(json.loads(events[-1])["error"]) == {"message", "type", "param", "code"}
        assert "[DONE]" not in answer.text and len(events) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_upstream(fresh: Gateway, stream: bool) -> None:
    left, began = asyncio.Event(), asyncio.Event()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if stream:
            writer.write(SSE_HEAD + event(asked, "he"))
        began.set()
        await asked.reader.read()
        left.set()
        raise ConnectionError

    async with scripted_engine(script) as url:
        await routed(fresh, {"e0": url})
        _, writer = await asyncio.open_connection("127.0.0.1", fresh.port)
        body = json.dumps(ASK | {"stream": stream}).encode()
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        await asyncio.wait_for(began.wait(), PATIENCE)
        writer.transport.abort()
        await asyncio.wait_for(left.wait(), PATIENCE)
        labels = {"version": STABLE, "code": "200" if stream else "499", "outcome": "cancelled"}
        assert await eventually(lambda: fresh.metric("understudy_requests_total", **labels)) == 1
        assert fresh.metric("understudy_requests_in_flight", route="support") == 0


async def test_a_slow_reader_is_not_buffered(gateway: Gateway) -> None:
    """The engine is stopped by back-pressure long before it has said everything."""
    sent = 0

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SSE_HEAD)
        for _ in range(2000):
            piece = event(asked, "x" * 20_000)
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))

    async with scripted_engine(script) as url:
        await routed(gateway, {"e0": url})
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
        body = json.dumps(ASK | {"stream": True}).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT.encode(), len(body), body)
        )
        assert await at_rest(lambda: sent) < 30_000_000
        received = 0
        while piece := await reader.read(1 << 20):
            received += len(piece)
        assert received > 40_000_000 and sent > 40_000_000


async def test_feedback_is_checked_from_the_id_alone(fresh: Gateway) -> None:
    async with scripted_engine(obliging) as url, client(fresh) as http:
        await routed(fresh, {"e0": url})
        answer = (await http.post(CHAT, json=ASK)).json()
        given = {"response_id": answer["id"], "score": 1, "kind": "thumb"}
        assert (await http.post("/v1/feedback", json=given)).status_code == 202
        assert (
            await http.post("/v1/feedback", json=given | {"response_id": answer["id"][:-2] + "AA"})
        ).status_code == 404
        assert (await http.post("/v1/feedback", json=given | {"score": 2})).status_code == 422
    fresh.stop()
    with fresh.database.read() as connection:
        rows = connection.exec_driver_sql("select response_id, score, kind from feedback").all()
        responses = connection.exec_driver_sql(
            "select response_id, outcome, input_tokens, output_tokens from responses"
        ).all()
    minted = answer["id"].removeprefix("chatcmpl-")
    assert [tuple(r) for r in rows] == [(minted, 1.0, "thumb")]
    assert [tuple(r) for r in responses] == [(minted, "ok", 5, 2)]


async def test_units_stay_and_arms_are_counted_apart(gateway: Gateway) -> None:
    async with scripted_engine(obliging) as url, client(gateway) as http:
        await routed(gateway, {"e0": url}, share=0.5)
        chosen: dict[str, set[str]] = {}
        for _ in range(3):
            for unit in (str(i) for i in range(30)):
                for fields, headers in (
                    ({"user": unit}, {}),
                    ({"safety_identifier": unit}, {}),
                    ({}, {"x-understudy-unit": unit}),
                ):
                    answer = await http.post(CHAT, json=ASK | fields, headers=headers)
                    chosen.setdefault(unit, set()).add(answer.headers["x-understudy-version"])
        assert all(len(versions) == 1 for versions in chosen.values())
        assert {v for versions in chosen.values() for v in versions} == {STABLE, OTHER}
