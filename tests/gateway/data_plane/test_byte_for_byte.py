"""What passes through is what a direct connection would have brought, byte for byte, but for the documented changes.

The scripted engine answers the same bytes to the same request. Each request goes through the gateway; then what the
engine was sent is sent to it once more, directly, and the two answers are compared.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator

import pytest

from gateway.data_plane.endpoints import ENDPOINTS
from tests.support.raw_http import Answer, Wire, again, engine, post, wire
from tests.support.serving import SSE_HEAD, STABLE, Asked, Gateway, http_chunk, json_answer, routed
from tests.support.waiting import PATIENCE

PATHS = list(ENDPOINTS)
CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS = PATHS
ENGINE_MODEL = f'"{STABLE}"'.encode()
USAGE = b'"usage":{"prompt_tokens":5,"total_tokens":7,"completion_tokens":2}'


def filled(template: bytes, asked: Asked) -> bytes:
    """The engine's own name for the model, and the id it was given, where a template has @MODEL@ and @ID@."""
    given = asked.json.get("request_id", asked.headers["x-request-id"])
    return template.replace(b"@MODEL@", json.dumps(asked.json["model"]).encode()).replace(b"@ID@", given.encode())


# -- requests ---------------------------------------------------------------------------------------------------------

# @M@ is where the model stands; everything else must arrive as it is here.
BODIES = [
    b'{"model":@M@,"messages":[]}',
    b'{"messages":[],"model":@M@}',
    b' \r\n\t{ "messages" :\n[ ] ,\t"model"\r\n:\t@M@ \n, "x" : { } }\n\n',
    '{"model":@M@,"messages":[{"role":"user","content":"ünï ∑ 😀 \u2028\u2029 \u200d \ufeff"}]}'.encode(),
    rb'{"model":@M@,"messages":[{"role":"user","content":"\u00e9 \ud83d\ude00 \/ \\ \" \b\f\n\r\t \u0000 \u2028"}]}',
    rb'{"a\u0062":1,"model":@M@,"\u00e9":2,"":3," ":4}',
    rb'{"mod\u0065l":@M@,"messages":[]}',
    rb'{"x":"\"model\":\"support\"","model":@M@,"y":"{\"model\":1}\\"}',
    b'{"x":{"model":"support"},"model":@M@,"y":[{"model":"support"},["model"],"model"]}',
    b'{"x":"model","model":@M@,"model2":"support","Model":"other","MODEL":1}',
    b'{"x":1,"x":2,"x":[3],"model":@M@}',
    b'{"model":@M@,"a":1E5,"b":-0.0,"c":1e-300,"d":123456789012345678901234567890,"e":0.1000000000000000055511151231}',
    b'{"model":@M@,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],'
    b'"tool_choice":"auto","response_format":{"type":"json_object"},"logprobs":true,"top_logprobs":5,"n":3,"seed":7}',
    b'{"model":@M@,"x":' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"model":@M@,"messages":[{"role":"user","content":"' + "ab😀".encode() * 500_000 + b'"}]}',
    b'{"messages":[{"role":"user","content":"' + rb"\ud83d\ude00\n" * 200_000 + b'"}],"model":@M@}',
]  # fmt: skip


def edits(path: str, asked: Asked, stream: bool) -> bytes:
    """What the gateway puts behind the first brace: its id where the engine takes it from the body, and usage."""
    extra = b""
    if path == RESPONSES:
        extra += b'"request_id":"resp_%b",' % asked.headers["x-request-id"].encode()
    if stream and path in (CHAT, COMPLETIONS):
        extra += b'"stream_options":{"include_usage":true},'
    return extra


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_reach_the_engine_as_they_were_sent(gateway: Gateway, path: str) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(filled(b'{"id":"@ID@","model":@MODEL@}', asked)))

    async with engine(script) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for body, (name, stream) in itertools.product(BODIES, ((b'"support"', False), (rb'"supp\u006frt"', True))):
            extra = b',"stream":true}' if stream else b"}"
            sent = body.replace(b"@M@", name)
            sent = sent[: sent.rindex(b"}")] + extra + sent[sent.rindex(b"}") + 1 :]
            connection.send(post(sent, path=path))
            answer = await connection.answer()
            assert answer.status == 200, (sent[:200], answer)
            expected = body.replace(b"@M@", ENGINE_MODEL)
            expected = expected[: expected.rindex(b"}")] + extra + expected[expected.rindex(b"}") + 1 :]
            brace = expected.index(b"{") + 1
            request = asked.pop()
            expected = expected[:brace] + edits(path, request, stream) + expected[brace:]
            assert request.body == expected, (path, sent[:200])
            assert answer.body.endswith(b'"model":' + name + b"}")  # as the client spelled it


async def test_stream_options_keep_what_the_client_asked_for(gateway: Gateway) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))

    async with engine(script) as (url, _, asked), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for given, expected in (
            (b"null", b'{"include_usage":true}'),
            (b'{ "a" : 1 }', b'{"a":1,"include_usage":true}'),
            (b'{"include_usage": false, "x": "\xc3\xa9"}', b'{"include_usage":true,"x":"\xc3\xa9"}'),
            (b'{ "include_usage" : true }', b'{ "include_usage" : true }'),
            (b'"malformed"', b'"malformed"'),
        ):
            body = b'{"x":{"stream_options":1}, "stream_options" : %b ,"model":%b,"stream":true}'
            connection.send(post(body % (given, b'"support"')))
            assert (await connection.answer()).status == 200
            assert asked.pop().body == body % (expected, ENGINE_MODEL)


# -- answers in one piece ---------------------------------------------------------------------------------------------

ANSWERS = [
    b'{"id":"@ID@","object":"chat.completion","model":@MODEL@,"choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"hello"},"logprobs":null,"finish_reason":"stop"}],' + USAGE + b"}",
    b'{"id": "@ID@", "model": @MODEL@, "choices": [{"text": "a"}, {"text": "b", "index": 1}], "usage": null}\n',
    b'{"model":@MODEL@,"choices":[{"message":{"content":null,"tool_calls":[{"id":"1","type":"function","function":'
    rb'{"name":"f","arguments":"{\"model\":\"support@aaaaaaaaaaaa\",\"x\":\"\\\"\"}"}}]}}]}',
    rb'{"choices":[{"message":{"content":"\"model\":\"support@aaaaaaaaaaaa\" is data, \u00e9 \ud83d\ude00 \/"}}],"model":@MODEL@}',
    '{"choices":[{"text":"ünï ∑ 😀 \u2028 \x7f","logprobs":{"tokens":["\ufffd"],"token_logprobs":[-0.10536051565782628,-1e-300]}}],"model":@MODEL@}'.encode(),
    b'{"model":@MODEL@,"response":{"model":@MODEL@},"x":[{"model":@MODEL@},{"model":"other"}],"usage":{}}',
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[' + b"0.0123456789,-1.5e-05," * 60_000 + b'0]}],"model":@MODEL@}',
    b'{"model":@MODEL@,"content":[{"type":"text","text":"' + "😀".encode() * 1_000_000 + b'"}]}',
    b'{"id":"no model at all"}',
    b'[]', b'"text"', b"", b"  \n", b"not json at all \xff\x00",
]  # fmt: skip


def public(answer: bytes, name: bytes = b'"support"') -> bytes:
    """The documented change of an answer."""
    for space in (b"", b" "):
        answer = answer.replace(b'"model":' + space + ENGINE_MODEL, b'"model":' + name)
    return answer


async def both(connection: Wire, direct: Wire, asked: list[Asked], request: bytes) -> tuple[Answer, Answer]:
    """The answer through the gateway, and the engine's own to what it was asked."""
    connection.send(request)
    through = await connection.answer()
    direct.send(again(asked[-1]))
    plain = await direct.answer()
    asked.clear()
    return through, plain


@pytest.mark.parametrize("path", PATHS)
async def test_answers_are_the_engines_own(gateway: Gateway, path: str) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(filled(ANSWERS[asked.json["seed"]], asked)))

    async with engine(script) as (url, port, asked), wire(gateway) as connection, wire(port) as direct:
        await routed(gateway, {"e0": url})
        for number, target in itertools.product(range(len(ANSWERS)), (path, path + "?through=asgi")):
            request = post(b'{"model":"support","seed":%d}' % number, path=target)
            through, plain = await both(connection, direct, asked, request)
            assert (through.status, through.ended) == (200, "length")
            assert through.body == public(plain.body), (target, number)


# -- streams ----------------------------------------------------------------------------------------------------------

CHUNK = b'data: {"id":"@ID@","object":"chat.completion.chunk","created":1,"model":@MODEL@,"choices":[%b]}\n\n'
DELTA = '{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":null}'
EXTRA = b'data: {"id":"@ID@","model":@MODEL@,"choices":[],' + USAGE + b"}\n\n"
DONE = b"data: [DONE]\n\n"
STREAMS = {
    CHAT: [
        CHUNK % b'{"index":0,"delta":{"role":"assistant","content":""}}',
        b": keep-alive\n\n", *(CHUNK % (DELTA % text).encode() for text in ("a", "ünï ∑ 😀", r"\ud83d\ude00 \"model\":\"x\"")),
        b": comment\ndata: {\"model\":@MODEL@}\n\n",
        CHUNK % b'{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]},"finish_reason":"stop"}',
        EXTRA, DONE,
    ],
    COMPLETIONS: [
        b'data: {"id": "@ID@", "model": @MODEL@, "choices": [{"index": 0, "text": "\xf0\x9f\x98\x80", "logprobs": null}]}\n\n',
        b'data: {"id": "@ID@", "model": @MODEL@, "choices": [{"index": 1, "text": "data: [DONE]"}]}\n\n', EXTRA, DONE,
    ],
    RESPONSES: [
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"@ID@","model":@MODEL@}}\n\n',
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"\xc3\xa9 error"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{"model":@MODEL@,"usage":{"input_tokens":1,"output_tokens":2}}}\n\n',
    ],
    MESSAGES: [
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"@ID@","model":@MODEL@,"usage":{"input_tokens":1,"output_tokens":0}}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\xe2\x88\x91"}}\n\n',
        b'event: ping\ndata: {"type": "ping"}\n\n', b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ],
}  # fmt: skip


def raw_stream(asked: Asked) -> list[bytes]:
    """The packets of an answer, as the request's `how` says: (how events are put into chunks, where packets end)."""
    framing, cut = asked.json["how"]
    events = [filled(event, asked) for event in STREAMS[asked.path]]
    if framing == "crlf":
        events = [event.replace(b"\n", b"\r\n") for event in events]
    if framing == "bytes":  # a chunk for every byte
        events = [bytes([byte]) for byte in b"".join(events)]
    if framing == "one":
        events = [b"".join(events)]
    body = b"".join(map(http_chunk, events)) + http_chunk(b"")
    if framing == "close":
        return [SSE_HEAD.replace(b"transfer-encoding: chunked\r\n", b"") + b"".join(events)]
    if cut < 0:  # packets of -cut bytes
        return [SSE_HEAD, *(body[i : i - cut] for i in range(0, len(body), -cut))]
    return [SSE_HEAD + body[:cut], body[cut:]]


async def as_told(asked: Asked, writer: asyncio.StreamWriter) -> None:
    packets = raw_stream(asked)
    for packet in packets:
        writer.write(packet)
        await writer.drain()
        await asyncio.sleep(0.001 if len(packets) < 9 else 0)
    if asked.json["how"][0] == "close":
        raise ConnectionError


def expected_stream(path: str, plain: bytes, wanted_usage: bool) -> bytes:
    """The documented changes of a stream."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in plain else b"\n\n"
    if not wanted_usage and path in (CHAT, COMPLETIONS):
        plain = end.join(event for event in plain.split(end) if b'"choices":[]' not in event)
    return public(plain)


async def compare_streams(
    gateway: Gateway, port: int, asked: list[Asked], path: str, hows: Iterator[tuple[str, int]]
) -> int:
    """One client that asks for one delivery after the other. The number of comparisons."""
    count = 0
    async with wire(gateway) as connection, wire(port) as direct:
        for number, how in enumerate(hows):
            wanted = number % 2 == 1
            options = b',"stream_options":{"include_usage":true}' if wanted and path in (CHAT, COMPLETIONS) else b""
            mark = f"{id(connection)}-{number}"
            body = b'{"model":"support","stream":true,"mark":"%b","how":%b%b}' % (
                mark.encode(), json.dumps(how).encode(), options,
            )  # fmt: skip
            connection.send(post(body, path=path))
            through = await connection.answer()
            request = next(a for a in reversed(asked) if a.json["mark"] == mark)
            direct.send(again(request).replace(json.dumps(how).encode(), json.dumps((how[0], 0)).encode().ljust(
                len(json.dumps(how)))))  # fmt: skip
            plain = await direct.answer()
            assert (through.status, through.ended) == (200, "chunked")
            assert through.body == expected_stream(path, plain.body, wanted), (path, how)
            count += 1
            if plain.ended == "close":
                direct.reader, direct.writer = await asyncio.open_connection("127.0.0.1", port)
    return count


@pytest.mark.parametrize("path", list(STREAMS))
async def test_streams_however_they_are_cut(gateway: Gateway, path: str) -> None:
    """Two packets cut everywhere, single bytes, chunks of single bytes, all in one, until the close, CRLF."""
    async with engine(as_told) as (url, port, asked):
        await routed(gateway, {"e0": url})
        everywhere = [("events", cut) for cut in range(1800)]
        others = [(framing, -size) for framing in ("events", "bytes", "one", "crlf", "close") for size in (1, 3, 7, 50, 9999)]
        hows = iter([*others, *everywhere])
        counts = await asyncio.gather(*(compare_streams(gateway, port, asked, path, hows) for _ in range(8)))
        assert sum(counts) == len(others) + len(everywhere)


async def test_events_leave_as_they_come_whatever_ends_their_lines(gateway: Gateway) -> None:
    """The engine sends its next event only when the client has the one before."""
    had: asyncio.Queue[None] = asyncio.Queue()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        end = b"\r\n" if "crlf" in asked.json else b"\n"
        writer.write(SSE_HEAD)
        for number in range(5):
            writer.write(http_chunk(b'data: {"model":"%b","choices":[{"delta":{"content":"%d"}}]}' % (STABLE.encode(), number) + end * 2))
            await writer.drain()
            await had.get()
        writer.write(http_chunk(b"data: [DONE]" + end * 2) + http_chunk(b""))

    async with engine(script) as (url, _, _):
        await routed(gateway, {"e0": url})
        for fields in (b"", b',"crlf":1'):
            async with wire(gateway) as connection, asyncio.timeout(PATIENCE):
                connection.send(post(b'{"model":"support","stream":true%b}' % fields))
                for number in range(5):
                    await connection.reader.readuntil(b'"content":"%d"}}]}' % number)
                    had.put_nowait(None)
                await connection.reader.readuntil(b"data: [DONE]")


def test_every_endpoint_is_compared() -> None:
    assert set(PATHS) == set(STREAMS) | {EMBEDDINGS} == set(ENDPOINTS)
