"""What clients may send: HTTP/1.1 in all its forms, and everything that only looks like it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

from tests.support.raw_http import Wire, ask, engine, once, post, resident, wire
from tests.support.serving import SSE_HEAD, Asked, Gateway, event, http_chunk, obliging, routed
from tests.support.waiting import PATIENCE

BODY = ask()
LENGTH = b"content-length: %d\r\n" % len(BODY)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


# What a request may look like, and must be answered as any other.
GOOD = {
    "plain": HEAD + LENGTH + b"\r\n" + BODY,
    "no content type, odd case": b"POST /v1/chat/completions HTTP/1.1\r\nHOST:x\r\nCoNtEnT-LeNgTh:  %d \r\n\r\n%b" % (len(BODY), BODY),
    "blank lines before": b"\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY,
    "absolute form": b"POST http://x/v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY,
    "query": b"POST /v1/chat/completions?api-version=1 HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY,
    "escaped path": b"POST /v1/chat/comple%74ions HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked": HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked in capitals": HEAD + b"Transfer-Encoding: Chunked\r\n\r\n" + CHUNKED,
    "chunks of one byte": HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n",
    "extensions": HEAD + b'transfer-encoding: chunked\r\n\r\n%X;a="b";c\r\n%b\r\n0;d\r\n\r\n' % (len(BODY), BODY),
    "trailers": HEAD + b"transfer-encoding: chunked\r\ntrailer: authorization\r\n\r\n" + CHUNKED[:-2]
    + b"authorization: Bearer us-made-up\r\ncontent-type: text/html\r\nx-request-id: trailed\r\n\r\n",
    "trailers to the application": HEAD.replace(b"ions ", b"ions?x ") + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2]
    + b"authorization: Bearer us-made-up\r\ncontent-type: text/html\r\nx-request-id: trailed\r\n\r\n",
    "an upgrade to h2c": HEAD + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    + LENGTH + b"\r\n" + BODY,
    "an upgrade, chunked": HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "an expectation we do not know": HEAD + b"expect: the-best\r\n" + LENGTH + b"\r\n" + BODY,
    "200 headers": HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(200)) + LENGTH + b"\r\n" + BODY,
    "a header of 60 kB": HEAD + b"x-long: " + b"y" * 60_000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "not quite an id": HEAD + b"x-request-id: " + b"\xff" * 300 + b"\r\n" + LENGTH + b"\r\n" + BODY,
}  # fmt: skip


async def test_every_form_of_a_request_is_understood(gateway: Gateway) -> None:
    """Whole, in packets of seven bytes, and all of them in a row on one connection."""
    async with engine(obliging) as (url, _, asked), wire(gateway) as all_in_a_row:
        await routed(gateway, {"e0": url})
        for name, request in GOOD.items():
            all_in_a_row.send(request)
            answer = await all_in_a_row.answer()
            assert answer.status == 200 and asked.pop().json["messages"], (name, answer)
            assert len(answer.headers["x-request-id"]) == 48 and not asked, (name, answer)
            if len(request) < 5000:
                async with wire(gateway) as connection:
                    await connection.trickle(*(request[i : i + 7] for i in range(0, len(request), 7)), gap=0)
                    assert (await connection.answer()).status == 200, name
                asked.clear()


# What nobody may be asked to answer. Where two parsers could disagree, it is refused, and the connection ends.
BAD = {
    "two lengths": HEAD + LENGTH + b"content-length: 3\r\n\r\n" + BODY,
    "the same length twice": HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": HEAD + b"content-length: %d, %d\r\n\r\n%b" % (len(BODY), len(BODY), BODY),
    "length and chunked": HEAD + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked and length": HEAD + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "a signed length": HEAD + b"content-length: +%d\r\n\r\n%b" % (len(BODY), BODY),
    "a negative length": HEAD + b"content-length: -1\r\n\r\n",
    "a hexadecimal length": HEAD + b"content-length: 0x10\r\n\r\n" + BODY,
    "a length beyond all bounds": HEAD + b"content-length: 99999999999999999999999\r\n\r\n",
    "another encoding": HEAD + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "identity": HEAD + b"transfer-encoding: identity\r\n\r\n" + BODY,
    "chunked, but not last": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "compressed": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "a tab in the encoding": HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n" + CHUNKED,
    "chunked in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked with an upgrade and a length": HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "a folded line": HEAD + LENGTH + b"x-a: b\r\n c: d\r\n\r\n" + BODY,
    "a folded encoding": HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "bare line feeds": (HEAD + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "one bare line feed": HEAD + b"x-a: b\n" + LENGTH + b"\r\n" + BODY,
    "a bare carriage return": HEAD + b"x-a: b\rc: d\r\n" + LENGTH + b"\r\n" + BODY,
    "a null byte in a value": HEAD + b"x-a: b\0c\r\n" + LENGTH + b"\r\n" + BODY,
    "a null byte in a name": HEAD + b"x\0a: b\r\n" + LENGTH + b"\r\n" + BODY,
    "a control character in an id": HEAD + b"x-request-id: a\x01b\r\n" + LENGTH + b"\r\n" + BODY,
    "no name": HEAD + b": b\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": HEAD + b"nonsense\r\n" + LENGTH + b"\r\n" + BODY,
    "an unknown method": b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method in small letters": HEAD.lower() + LENGTH + b"\r\n" + BODY,
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    "CONNECT to an endpoint": b"CONNECT /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n",
    "an absolute form without a path": b"POST http://x HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY,
    "bytes in the path": b"POST /v1/ch\xc3\xa4t HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": HEAD.replace(b"1.1", b"2.0") + LENGTH + b"\r\n" + BODY,
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/1.2": HEAD.replace(b"1.1", b"1.2") + LENGTH + b"\r\n" + BODY,
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 100,
    "a chunk's size that is none": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a chunk's size beyond all bounds": HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "a negative chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\n",
    "a chunk longer than it says": HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "line feeds between chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED.replace(b"\r\n", b"\n"),
}  # fmt: skip
TOO_LARGE = {
    "300 headers": HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(300)) + LENGTH + b"\r\n" + BODY,
    "a header of 5 MB": HEAD + b"x-long: " + b"y" * 5_000_000,
    "a path of 5 MB": b"GET /" + b"y" * 5_000_000,
    "a name of 5 MB": HEAD + b"y" * 5_000_000,
    "an extension of 5 MB": HEAD + b"transfer-encoding: chunked\r\n\r\n5;" + b"y" * 5_000_000,
    "a trailer of 5 MB": HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"y: " + b"y" * 5_000_000,
    "trailers to another path": HEAD.replace(b"chat/completions", b"feedback") + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED[:-2] + b"x: y\r\n" * 900_000,
}  # fmt: skip


async def test_what_two_parsers_could_read_differently_is_refused(gateway: Gateway) -> None:
    """A second request hidden behind each of them is never answered; the engine sees none of it."""
    async with engine(obliging) as (url, _, asked):
        await routed(gateway, {"e0": url})
        for name, request in {**BAD, **TOO_LARGE}.items():
            async with wire(gateway) as connection:
                connection.send(request + (HEAD + LENGTH + b"\r\n" + BODY if name in BAD else b""))
                answer = await connection.answer()
                expected = (400, None) if name in BAD else (431, "headers_too_large")
                assert (answer.status, answer.code) == expected, (name, answer)
                assert answer.headers["connection"] == "close"
                assert await connection.rest() == b"" and not asked, name


async def test_what_is_not_http_never_breaks_into_an_answer(gateway: Gateway) -> None:
    """A stream under way ends; it does not get a second head in its middle."""
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + event(asked, "he"))
        await asked.reader.read()

    async with engine(script) as (url, _, _), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        connection.send(post(ask(stream=True)))
        begun = await connection.reader.readuntil(b'"he"')  # or the rubbish might be there first
        connection.send(b"rubbish\r\n\r\n")
        text = begun + await connection.rest()
        assert text.count(b"HTTP/1.1 ") == 1 and b'"he"' in text and not text.endswith(b"0\r\n\r\n")


async def test_head_asks_like_get_and_is_told_no_body(gateway: Gateway) -> None:
    async with wire(gateway) as connection:
        for path, status in (("/healthz", 200), ("/v1/models", 200), ("/v1/models/nope", 404), ("/v1/feedback", 405),
                             ("/v1/chat/completions", 405), ("/nope", 404)):  # fmt: skip
            for method in ("HEAD", "GET"):
                connection.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                answer = await connection.answer(method)
                assert answer.status == status, (method, path, answer)
                length = answer.headers["content-length"]
                assert length == str(len(answer.body)) if method == "GET" else int(length) > 0


def statuses(text: bytes) -> list[bytes]:
    return [part[:3] for part in text.split(b"HTTP/1.1 ")[1:]]


async def test_a_pipeline_of_everything_is_answered_in_order(gateway: Gateway) -> None:
    """Hot paths, the application's, refusals and streams; one packet, then packets of 100 bytes."""
    numbers = itertools.count()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep((0.02, 0.0)[next(numbers) % 2])
        await obliging(asked, writer)

    users = iter(range(10_000))
    named: list[str] = []

    def request(**fields: Any) -> bytes:
        named.append(f"call-{next(users)}")
        return post(ask(**fields), b"x-request-id: " + named[-1].encode())

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        for size in (1_000_000, 100):
            named.clear()
            parts = [
                request(model="nope"), request(), request(stream=True), HEALTH, request(model="nope"), request(),
                post(b"{"), post(b"{}", path="/v1/feedback"), request(), HEALTH, request(stream=True), request(n=99),
                request(),
            ]  # fmt: skip
            data = b"".join(parts) + b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            async with wire(gateway) as connection:
                await connection.trickle(*(data[i : i + size] for i in range(0, len(data), size)), gap=0)
                text = await connection.rest()
            expected = b"404 200 200 200 404 200 400 400 200 200 200 400 200 200".split()
            assert statuses(text) == expected
            found = [line.split(b": ")[1].decode() for line in text.split(b"\r\n") if line.startswith(b"x-request-id: ")]
            assert found == named


async def test_what_is_sent_after_a_last_request_is_not_answered(gateway: Gateway) -> None:
    close = b"connection: close"
    async with engine(obliging) as (url, _, asked):
        await routed(gateway, {"e0": url})
        for last, wanted in (
            (post(b"{", close), 0), (post(ask(), close), 1), (b"GET /healthz HTTP/1.0\r\n\r\n", 0),
            (post(b"{").replace(b"1.1", b"1.0"), 0), (post(b"{}", close, path="/v1/feedback"), 0),
        ):  # fmt: skip
            async with wire(gateway) as connection:
                connection.send(last + post(ask()) + HEALTH)
                assert len(statuses(await connection.rest())) == 1
            assert len(asked) == wanted, last
            asked.clear()


async def test_who_leaves_with_requests_in_the_pipeline_cancels_the_one_under_way(gateway: Gateway) -> None:
    """The one under way may be a hot one or the application's; what waits behind it never reaches an engine."""
    left = asyncio.Event()
    began = asyncio.Event()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "quick" not in asked.json:
            writer.write(SSE_HEAD + event(asked, "he"))
            began.set()
            await asked.reader.read()
            left.set()
            raise ConnectionError
        await obliging(asked, writer)

    async with engine(script) as (url, _, asked):
        await routed(gateway, {"e0": url})
        for before in (b"", post(ask(quick=1))):
            for event_ in (left, began):
                event_.clear()
            async with wire(gateway) as connection:
                connection.send(before + post(ask(stream=True)) + HEALTH + post(ask(quick=1)))
                await asyncio.wait_for(began.wait(), PATIENCE)
            await asyncio.wait_for(left.wait(), PATIENCE)
        await asyncio.sleep(0.1)
        assert len(asked) == 3


async def test_a_slow_reader_with_a_second_request_in_the_pipeline_is_not_buffered(gateway: Gateway) -> None:
    sent = 0

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SSE_HEAD)
        for _ in range(2000):
            writer.write(event(asked, "x" * 20_000))
            await writer.drain()
            sent += 20_000
        writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
        writer.write(post(ask(stream=True)) + HEALTH)
        stalled = -1
        while sent != stalled or not sent:
            stalled = sent
            await asyncio.sleep(0.3)
        assert sent < 30_000_000
        connection = Wire(reader, writer)
        answer = await connection.answer()
        assert len(answer.body) > 40_000_000 and answer.body.endswith(b"data: [DONE]\n\n")
        assert (await connection.answer()).json == {"status": "ok"}
        writer.transport.abort()


async def test_a_client_that_closes_its_half_is_gone(gateway: Gateway) -> None:
    """Nothing tells it from one that left, and who left must not occupy an engine."""
    began, left = asyncio.Event(), asyncio.Event()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        began.set()
        await asked.reader.read()
        left.set()
        raise ConnectionError

    async with engine(script) as (url, _, _), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        connection.send(post(ask()))
        await asyncio.wait_for(began.wait(), PATIENCE)
        connection.writer.write_eof()
        assert await connection.rest() == b""
        await asyncio.wait_for(left.wait(), PATIENCE)


async def test_one_connection_for_many_requests_and_many_connections_for_one(gateway: Gateway) -> None:
    async with engine(obliging) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for number in range(300):
            connection.send(post(ask(stream=number % 3 == 0), b"x-request-id: %d" % number))
            answer = await connection.answer()
            assert (answer.status, answer.headers["x-request-id"]) == (200, str(number))
        answers = await asyncio.gather(*(once(gateway, post(ask(), b"connection: close")) for _ in range(100)))
        assert {(a.status, a.headers["connection"]) for a in answers} == {(200, "close")}
        assert len(asked) == 400


async def test_expectations_are_met_before_the_body_and_only_in_http_1_1(gateway: Gateway) -> None:
    async with engine(obliging) as (url, _, _):
        await routed(gateway, {"e0": url})
        for path in (b"", b"?through=asgi"):
            for version, promised in ((b"1.1", True), (b"1.0", False)):
                head = HEAD.replace(b"ions ", b"ions" + path + b" ").replace(b"1.1", version)
                async with wire(gateway) as connection:
                    connection.send(head + b"expect: 100-continue\r\n" + LENGTH + b"\r\n")
                    if promised:
                        async with asyncio.timeout(PATIENCE):
                            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    connection.send(BODY)
                    text = await connection.rest() if not promised else (await connection.answer()).head
                    assert text[9:12] == b"200", (path, version, text)


async def test_a_flood_of_headers_and_trailers_costs_no_memory(gateway: Gateway) -> None:
    """100 clients send a megabyte of something that nobody needs, each without an end."""
    await once(gateway, HEALTH)
    before = resident(gateway)

    async def flood(start: bytes) -> None:
        async with wire(gateway) as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    connection.send(start)
                    await connection.writer.drain()
                    start = b"y" * 50_000
                assert (await connection.rest()).startswith(b"HTTP/1.1 431 ")

    starts = [HEAD + b"x: ", HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"GET /" + b"y" * 10]
    await asyncio.gather(*(flood(starts[n % 3]) for n in range(99)))
    assert resident(gateway) - before < 60_000_000


async def test_nothing_a_client_names_becomes_a_header_of_its_own(gateway: Gateway) -> None:
    """Ids, units, models and traces, towards the engine and back to the client."""
    evil = "x\r\nset-cookie: a=b\r\n\r\nHTTP/1.1 200 OK"
    async with engine(obliging) as (url, _, asked):
        await routed(gateway, {"e0": url})
        for fields in ({"model": evil}, {"model": "auto", "user": evil}, {"safety_identifier": evil}, {"metadata": {evil: evil}}):
            answer = await once(gateway, post(ask(**fields)))
            assert answer.status == (404 if fields.get("model") == evil else 200)
            assert "set-cookie" not in answer.headers and len(answer.headers) <= 8
        lines = [b"x-understudy-unit: \xe9\xff\t\x80", b"x-request-id: a b", b"traceparent: \xff%0d%0aset-cookie: x", b"x-request-id: c"]
        answer = await once(gateway, post(ask(), *lines))
        assert (answer.status, answer.headers["x-request-id"]) == (200, "c")
        asked_with = asked[-1].headers
        assert set(asked_with) == {"host", "content-type", "content-length", "x-request-id", "traceparent"}
        assert len(asked_with["x-request-id"]) == 48 and "set-cookie" not in asked_with


async def test_json_that_two_readers_could_understand_differently_is_refused(gateway: Gateway) -> None:
    """The connection stays: the request was understood as HTTP."""
    wrong = [
        b'\xef\xbb\xbf{"model":"support"}', '{"model":"support"}'.encode("utf-16"), b'{"model":"support","x":"\xff"}',
        rb'{"model":"support","x":"\ud83d"}', rb'{"model":"support","x":"\ude00\ud83d"}', b'{"model":"support","x":NaN}',
        b'{"model":"support","x":-Infinity}', b'{"model":"support","x":1e400}', b"[" * 100_000, b"", b"\0", b'{"model":"support"}{}',
        b'{"model":"support","x":01}', b"{'model':'support'}", b'{"model":"support",}', b'{"model":"support","x":"\n"}',
    ]  # fmt: skip
    async with engine(obliging) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for body in wrong:
            for lines in ([], [b"content-encoding: gzip"]):
                connection.send(post(body, *lines))
                answer = await connection.answer()
                assert (answer.status, answer.code) == (400, None), (body[:50], answer)
        assert not asked
