"""What an engine, or what stands before it, may send: every framing, every way to be wrong, and never another's bytes."""

from __future__ import annotations

import asyncio
import itertools
import json

from tests.support.raw_http import Answer, again, ask, engine, once, post, wire
from tests.support.serving import (
    CHAT,
    SSE_HEAD,
    Asked,
    Gateway,
    adopted,
    completion,
    event,
    http_chunk,
    json_answer,
    obliging,
    routed,
)


def whole(asked: Asked) -> bytes:
    return json_answer(completion(asked, text=asked.json["messages"][0]["content"]))


def own(user: int) -> bytes:
    """A request whose answer can be told from everybody else's."""
    return post(ask(messages=[{"role": "user", "content": f"secret of user {user}"}]))


POISON = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 28\r\n\r\n{"model":"x","p":"poison!!"}'


async def test_more_than_an_answer_never_reaches_the_next_user(gateway: Gateway) -> None:
    """Whatever follows an answer, whole or cut anywhere; were the connection used again, the rest would come first."""
    rest: dict[asyncio.StreamWriter, bytes] = {}

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        cut = asked.json["seed"]
        writer.write((rest.get(writer) or whole(asked)) + (POISON * 2)[:cut])
        rest[writer] = (POISON * 2)[cut:]

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        for cut in (*range(1, len(POISON), 7), len(POISON) - 1, len(POISON), len(POISON) + 20, 2 * len(POISON)):
            for user in (1, 2, 3):
                content = f"secret of user {user}"
                answer = await once(gateway, post(ask(messages=[{"role": "user", "content": content}], seed=cut)))
                assert answer.json["choices"][0]["message"]["content"] == content, (cut, answer)


async def test_users_at_once_hear_only_their_own(gateway: Gateway) -> None:
    """Every second answer has a surplus, some break off, some end by closing; 20 users over few connections."""
    numbers = itertools.count()
    heard: list[Answer] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        await asyncio.sleep(0.001 * (number % 3))
        writer.write(whole(asked) + (b"", POISON, POISON[:50], b"\r\n", b"rubbish")[number % 5])
        if number % 7 == 0:
            raise ConnectionError

    async def user(number: int) -> None:
        async with wire(gateway) as connection:
            for _ in range(15):
                connection.send(own(number))
                answer = await connection.answer()
                heard.append(answer)
                if answer.status == 200:
                    assert answer.json["choices"][0]["message"]["content"] == f"secret of user {number}"

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        await asyncio.gather(*(user(number) for number in range(20)))
    assert len(heard) == 300 and sum(a.status == 200 for a in heard) > 250


FRAMINGS = {
    "length": lambda body: b"content-length: %d\r\n\r\n%b" % (len(body), body),
    "chunked": lambda body: b"transfer-encoding: chunked\r\n\r\n" + http_chunk(body[:7]) + http_chunk(body[7:])
    + http_chunk(b""),
    "extensions": lambda body: b'transfer-encoding: chunked\r\n\r\n%X;a="b c";d\r\n%b\r\n0;last\r\n\r\n' % (len(body), body),
    "trailers": lambda body: b"transfer-encoding: chunked\r\ntrailer: x-a\r\n\r\n%x\r\n%b\r\n0\r\nx-a: 1\r\ncontent-type: x\r\n\r\n"
    % (len(body), body),
    "close": lambda body: b"\r\n" + body,
    "length-close": lambda body: b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
    "identity": lambda body: b"content-encoding: identity\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
}  # fmt: skip
INTERIM = [
    b"",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\ncontent-length: 5\r\n\r\n",
]


async def test_every_framing_of_an_answer(gateway: Gateway) -> None:
    """With and without interim answers, whole and in small packets; the connection is used again where it may be."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        framing, interim, size = asked.json["how"]
        body = whole(asked).partition(b"\r\n\r\n")[2]
        data = INTERIM[interim] + b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + FRAMINGS[framing](body)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        if "close" in framing:
            raise ConnectionError

    async def client(port: int, asked: list[Asked], framing: str, interim: int) -> None:
        async with wire(gateway) as connection:
            for size in (100_000, 3, 100_000):
                connection.send(post(ask(how=(framing, interim, size))))
                answer = await connection.answer()
                mine = next(a for a in reversed(asked) if a.json["how"] == [framing, interim, size])
                direct = await once(port, again(mine))
                assert answer.status == 200
                assert direct.json["id"] == "chatcmpl-" + mine.headers["x-request-id"]
                assert answer.json["choices"] == direct.json["choices"] and answer.json["model"] == "support"
                assert len(answer.body) == len(direct.body) - len("@aaaaaaaaaaaa")
                assert "x-a" not in answer.headers and "link" not in answer.headers

    async with engine(script) as (url, port, asked):
        await routed(gateway, {"e0": url})
        await asyncio.gather(*(client(port, asked, f, i) for f in FRAMINGS for i in range(len(INTERIM))))


WRONG = [
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\ncontent-encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops",
    b"\x16\x03\x01\x00\xa5\x01" + b"\0" * 40,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    b"rubbish\r\n\r\n",
    b"",  # last: an engine that resets is passed over for a while
]


async def test_every_way_to_be_wrong_is_an_enveloped_5xx(gateway: Gateway) -> None:
    """Whole and one byte at a time; the client's own connection stays usable."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        answer = WRONG[asked.json["seed"]]
        size = len(answer) if len(answer) > 200 or "once" in asked.json else 1
        for start in range(0, len(answer), size or 1):
            writer.write(answer[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        raise ConnectionError

    async with engine(script) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for number in range(len(WRONG)):
            for fields in ({"once": 1}, {}):
                connection.send(post(ask(seed=number, **fields)))
                found = await connection.answer()
                assert (found.status, found.code) == (502, "upstream_error"), (WRONG[number][:100], found)
                assert asked.pop().json["seed"] == number
                if not WRONG[number]:
                    break
        connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await connection.answer()).status == 200


async def test_an_engine_that_closes_idle_connections_again_and_again(gateway: Gateway) -> None:
    """It closes after every answer without saying so, sooner or later: no request may notice."""
    numbers = itertools.count()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(asked))
        await writer.drain()
        await asyncio.sleep((0.0, 0.001, 0.003, 0.01)[next(numbers) % 4])
        raise ConnectionError

    async with engine(script) as (url, _, asked):
        await routed(gateway, {"e0": url})

        async def user(number: int) -> None:
            async with wire(gateway) as connection:
                for turn in range(25):
                    connection.send(own(number))
                    answer = await connection.answer()
                    assert answer.status == 200, answer
                    assert answer.json["choices"][0]["message"]["content"] == f"secret of user {number}"
                    await asyncio.sleep(0.001 * (turn % 5))

        await asyncio.gather(*(user(number) for number in range(4)))
        assert len(asked) >= 100


async def test_connections_to_the_engine_are_reused_and_nothing_is_asked_for_compressed(gateway: Gateway) -> None:
    peers: list[tuple[str, int]] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        await obliging(asked, writer)

    async with engine(script) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for stream in (False, True, False, True):
            connection.send(post(ask(stream=stream), b"accept-encoding: gzip, br", b"te: trailers"))
            assert (await connection.answer()).status == 200
    assert len(set(peers)) == 1
    assert not {"accept-encoding", "te", "connection", "transfer-encoding"} & set(asked[0].headers)


async def test_what_follows_a_stream_is_nobodys(gateway: Gateway) -> None:
    numbers = itertools.count()
    surplus = [b"", b"0\r\n\r\n", POISON, b"data: more\n\n"]

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        end = http_chunk(b"data: [DONE]\n\n") + http_chunk(b"") + surplus[next(numbers) // 3]
        writer.write(SSE_HEAD + event(asked, asked.json["messages"][0]["content"]) + end)

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        for user in range(3 * len(surplus)):
            body = ask(stream=True, messages=[{"role": "user", "content": f"user {user}"}])
            answer = await once(gateway, post(body))
            first, done = answer.body.split(b"\n\n")[:2]
            assert json.loads(first[6:])["choices"][0]["delta"]["content"] == f"user {user}"
            assert done == b"data: [DONE]" and answer.body.count(b"data: ") == 2


async def test_a_large_answer_to_a_slow_reader_does_not_stop_the_next_one(gateway: Gateway) -> None:
    """The engine's connection is back in the pool while the client still reads: it is nobody's to pause."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(completion(asked, text="x" * asked.json["seed"])))

    async with engine(script) as (url, _, _), wire(gateway) as slow, wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for _ in range(3):
            slow.send(post(ask(seed=6_000_000)))
            await slow.reader.readuntil(b"\r\n\r\n")
            for path in (CHAT, CHAT + "?through=asgi"):
                connection.send(post(ask(seed=10), path=path))
                assert len((await connection.answer()).json["choices"][0]["message"]["content"]) == 10
            text = await slow.reader.readuntil(b'"total_tokens":7}}')
            assert len(text) > 6_000_000


async def test_a_snapshot_that_makes_no_sense_changes_nothing(gateway: Gateway) -> None:
    async with engine(obliging) as (url, _, asked):
        await routed(gateway, {"e0": url})
        for body in ({"routes": 5}, {"routes": [], "base": {}, "pinned": [], "endpoints": []}):
            gateway.fleet.publish(body, 0.0)
            gateway.publish({"e0": "http://[::1"})
            await adopted(gateway)
            assert (await once(gateway, post(ask()))).status == 200
        assert len(asked) == 2 and gateway.log.read_text().count("is unusable and is ignored") >= 2
        await routed(gateway, {"e1": url})
        assert (await once(gateway, post(ask()))).status == 200
