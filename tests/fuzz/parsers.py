"""Fuzzers of what parses without a socket. Each target makes its own inputs, and fails by an exception."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from adapters.snapshot import from_json
from gateway.config import load_settings
from gateway.data_plane.auth import Principal, owner_tag
from gateway.data_plane.endpoints import ENDPOINTS, Endpoint
from gateway.data_plane.envelope import render, translate
from gateway.data_plane.feedback import parse as parse_feedback
from gateway.data_plane.framing import unframed, whole_chunk
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.protocol import DENIED, INTERPRETED, last_user_text, parse, rewrite
from gateway.data_plane.sse import StreamEditor, read_usage, restamp
from gateway.data_plane.texts import answer_text, prompt_messages
from gateway.errors import ApiError
from tests.fuzz.engine_answers import SIZES, framed_answer
from tests.fuzz.mutate import Mutator

Target = Callable[[Mutator], None]  # one input; raises when something is wrong

MODEL, PUBLIC = b'"support@aaaaaaaaaaaa"', b'"support"'
STAMPED = (b'"model":' + MODEL, b'"model": ' + MODEL)
_SAMPLE = b"0123456789abcdef0123456789abcdef0123456789abcdef"

REQUESTS = [
    b'{"model":"support","messages":[{"role":"user","content":"hi"}]}',
    b'{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}], "model" : "auto","stream":true,"user":"u"}',
    b'{"model":"base","prompt":["a","b"],"stream":true,"stream_options":{"include_usage":false},"n":2,"echo":true}',
    rb'{"mod\u0065l":"support","input":[{"role":"user","content":"x"}],"metadata":{"a":"b"},"instructions":"i"}',
    b'{"model":"support","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[],"store":false,"logprobs":null}',
    b'{"x":{"model":"support","stream":true},"model":"support","y":"\\"model\\":1","safety_identifier":"s"}',
]  # fmt: skip
REQUEST_WORDS = [
    *(f'"{key}":'.encode() for key in (*INTERPRETED, *DENIED)), b'"model":"support",', b'"stream":true,', b'"n":3,',
    rb'"mod\u0065l":"x",', b'"stream_options":null,', b'"stream_options":{},', b'"background":true,', b'"content":',
]  # fmt: skip


_VALUES = (b"1", b"true", b"false", b"null", b'"x"', b"{}", b"[]", b'"support"', rb'"\u0061"', b'{"model":"y","n":9}', b"1.5",
           b'["model"]', rb'"\"model\":\"z\""', b'{"include_usage":true}', b'{"include_usage":1}', b'""', b"99999999999")  # fmt: skip


def _object(mutator: Mutator) -> bytes:
    """An object of members that mean something, in any order and spelling, at times changed once."""
    draw = mutator.random
    members = [(rb'"model"', draw.choice((b'"support"', rb'"supp\u006frt"', b'""', b"1")))] if draw.random() < 0.95 else []
    for _ in range(draw.randint(0, 5)):
        name = draw.choice((*INTERPRETED, *DENIED, "messages", "prompt", "input", "x")).encode()
        if draw.random() < 0.2:
            name = name.replace(name[:1], rb"\u%04x" % name[0], 1)
        members.append((b'"%b"' % name, draw.choice(_VALUES)))
    draw.shuffle(members)
    space = lambda: draw.choice((b"", b"", b" ", b"\n\t", b"\r\n"))  # noqa: E731 - drawn anew each time
    body = b",".join(space() + name + space() + b":" + space() + value + space() for name, value in members)
    body = space() + b"{" + body + b"}" + space()
    return body if draw.random() < 0.8 else mutator.change(body)


def protocol(mutator: Mutator) -> None:
    """What passes is JSON as the engine reads it, with one model, nothing denied, and only the documented changes."""
    draw = mutator.random
    body = mutator.make() if draw.random() < 0.3 else _object(mutator)
    endpoint = draw.choice(list(ENDPOINTS.values()))
    try:
        request = parse(endpoint, body, 4)
    except ApiError as error:
        assert error.status == 400 and "\n" not in error.message, error.message
        render(error)
        return
    names: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names[:] = [name for name, _ in pairs]  # the last object to end is the outermost
        return dict(pairs)

    plain = json.loads(body, object_pairs_hook=noted)
    assert [name for name in INTERPRETED if names.count(name) > 1] == []
    assert plain["model"] == request.model == json.loads(body[slice(*request.span)])
    assert not DENIED.keys() & plain.keys() and not plain.get("background") and not plain.get("store")
    assert 1 <= (1 if plain.get("n") is None else plain["n"]) <= 4
    sent = json.loads(rewrite(request, MODEL, "r1"))
    plain["model"] = json.loads(MODEL)
    if endpoint.id_in_body:
        assert sent.pop("request_id") == endpoint.id_prefix + "r1"
    if request.add_usage:
        assert sent.pop("stream_options")["include_usage"] is True
        plain.pop("stream_options", None)
    assert sent == plain
    assert isinstance(last_user_text(request.fields), str) and request.estimated_tokens() >= 0
    assert all(isinstance(m["content"], str) for m in prompt_messages(endpoint.name, request.fields))


ERRORS = [
    b'data: {"error":{"message":"it broke","code":500}}\n\n', b'event: error\ndata: {"type":"error","error":{}}\n\n',
    b': ping\ndata: {"error":{"message":"it broke"}}\n\n',
]  # fmt: skip
EVENTS = [
    b'data: {"id":"c","object":"chat.completion.chunk","model":' + MODEL + b',"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    b'data: {"id":"c","object":"chat.completion.chunk","model":' + MODEL + b',"choices":[{"index":1,"delta":{"content":"\\"model\\":"}}]}\n\n',
    b'data: {"id": "c", "model": ' + MODEL + b', "choices": [{"index": 0, "text": "\xc3\xa9"}]}\n\n',
    b'data: {"id":"c","model":' + MODEL + b',"choices":[],"usage":{"prompt_tokens":5,"total_tokens":7,"completion_tokens":2}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"x error"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n',
    b'event: response.created\r\ndata: {"response":{"model":' + MODEL + b'}}\r\n\r\n',
    b": ping\n\n", b"\n", b"\r\n", b"data: [DONE]\n\n", b"event: message_stop\ndata: {}\n\n", b"event: response.completed\ndata: {}\n\n",
    *ERRORS,
    b'data: {"model":' + MODEL + b',"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
]  # fmt: skip


TEXTS = ("a", "", "\n\ndata: [DONE]", 'data: {"error"', '"model":"support@aaaaaaaaaaaa"', '","usage":{', "\u00e9\U0001f600\u2028", "error", "\\",
         "event: message_stop", '"choices":[]', "x" * 300)  # fmt: skip
NAMED = {
    "responses": ("response.created", "response.output_text.delta", "response.completed"),
    "messages": ("message_start", "content_block_delta", "message_stop"),
}


def real_event(endpoint: Endpoint, draw: random.Random) -> bytes:
    """One as an engine writes it, with a text that looks like something else."""
    text = json.dumps(draw.choice(TEXTS), ensure_ascii=draw.random() < 0.5).encode()
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":9,"completion_tokens":2}' % draw.randrange(9)
    if endpoint.named_events:
        begin, delta, end = NAMED[endpoint.name]
        name = draw.choice((begin, delta, delta, delta, end, "ping")).encode()
        inner = {begin: b'{"model":%b}' % MODEL, delta: text}.get(name.decode(), b"{}")
        key = b"delta" if name.decode() == delta else b"response"
        return b'event: %b\ndata: {"type":"%b","%b":%b,"output_index":1}\n\n' % (name, name, key, inner)
    head = b'data: {"id":"c","object":"o","created":%d,"model":%b,' % (draw.choice((1, 1, 1, 2)), MODEL)
    inner = b'"delta":{"content":%b}' % text if endpoint.name == "chat" else b'"text":%b' % text
    return head + draw.choice((
        b'"choices":[{"index":0,%b,"finish_reason":null}]}' % inner, b'"choices":[{"index":0,%b}]}' % inner,
        b'"choices":[{"index":0,%b,"finish_reason":null}]}' % inner,
        b'"choices":[{"index":0,%b,"finish_reason":null}],%b}' % (inner, usage),
        b'"choices":[{"index":1,%b}],%b}' % (inner, usage), b'"choices":[],%b}' % usage,
        b'"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}}]}' % text,
    )) + b"\n\n"  # fmt: skip


def edited(endpoint: Endpoint, pieces: list[bytes], strip: bool, framed: bool = False) -> tuple[bytes, StreamEditor]:
    """As the relay does it: nothing is read after an error. `framed`: each piece is offered as a whole chunk first."""
    editor = StreamEditor(endpoint, STAMPED, b'"model":' + PUBLIC, strip)
    out = b""
    for piece in pieces:
        if not piece or editor.error is not None:
            continue
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        delta = editor.delta(chunk, chunk.index(b"\n") + 1) if framed else b""
        assert not delta or whole_chunk(delta) == delta.index(b"\n") + 1
        out += unframed(delta) if delta else editor.feed(piece)
    return (out + editor.flush() if editor.error is None else out), editor


def stream(mutator: Mutator) -> None:
    """However a stream is cut, the same comes out, and the same is known of it."""
    draw = mutator.random
    endpoint, strip = draw.choice([e for e in ENDPOINTS.values() if e.streams]), draw.random() < 0.5
    events = [real_event(endpoint, draw) for _ in range(draw.randint(1, 12))]
    events.insert(draw.randint(0, len(events)), draw.choice((b": ping\n\n", b"data: [DONE]\n\n", b"")))
    if draw.random() < 0.2:
        events.append(draw.choice(ERRORS))
    if draw.random() < 0.2:
        events = [event.replace(b"\n", b"\r\n") for event in events]
    whole = b"".join(events)
    expected, alone = edited(endpoint, events, strip)
    single = [bytes([byte]) for byte in whole[:400]] + [whole[400:]]
    for pieces, framed in ((events, True), ([whole], False), (mutator.cut(whole), draw.random() < 0.5), (single, False)):
        out, editor = edited(endpoint, pieces, strip, framed)
        assert out == expected and editor.error == alone.error, (pieces, out, expected)
        if editor.error is None:
            assert (editor.done, editor.content) == (alone.done, alone.content), pieces
            assert read_usage(editor.usage_event) == read_usage(alone.usage_event), pieces
    if alone.error is None and not strip:
        assert expected == restamp(whole, STAMPED, b'"model":' + PUBLIC)


def broken_stream(mutator: Mutator) -> None:
    """Rubbish passes or is an error; nothing is lost on the way, and nothing is invented."""
    draw = mutator.random
    whole = b"".join(draw.choice(EVENTS) if draw.random() < 0.7 else mutator.make(3) for _ in range(draw.randint(1, 9)))
    endpoint = draw.choice([e for e in ENDPOINTS.values() if e.streams])
    for pieces in ([whole], mutator.cut(whole)):
        out, editor = edited(endpoint, pieces, draw.random() < 0.5, draw.random() < 0.5)
        assert len(out) <= len(whole) + 2
        if editor.error is None and not editor.usage_event:
            plain = out.replace(PUBLIC, MODEL).replace(b": " + MODEL, b":" + MODEL)
            assert plain.rstrip() == whole.replace(PUBLIC, MODEL).replace(b": " + MODEL, b":" + MODEL).rstrip(), pieces


ANSWERS = [
    b'{"id":"c","model":' + MODEL + b',"choices":[{"index":0,"message":{"content":"hi"}}],"usage":{"prompt_tokens":1}}',
    b'{"choices":[{"text":"a","index":0},{"text":"b","index":1}]}', b'{"content":[{"type":"text","text":"a"}]}',
    b'{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}', *EVENTS,
    b'{"error":{"message":"bad `support@aaaaaaaaaaaa` at /usr/lib/python3/x.py","type":"B","param":"body.n","code":400}}',
    b'{"detail":[{"loc":["body","n"],"msg":"wrong"}]}', b'{"error":"Unauthorized"}', b'{"detail":"Not Found"}', b"<html>",
    b"""{"message":"1 validation error:\\n  {'loc': ('body', 'n'), 'msg': 'Input should be 1'}","param":"body.n"}""",
]  # fmt: skip


def answers(mutator: Mutator) -> None:
    """Texts, usage and errors of anything an engine may send."""
    data = mutator.make()
    for endpoint in ENDPOINTS.values():
        assert isinstance(answer_text(endpoint.name, data), str)
    read_usage(data)
    error = translate(mutator.random.choice((400, 401, 404, 422, 429, 500, 503, 200, 302)), data, "support", "support@aaaaaaaaaaaa")
    status, headers, body = render(error)
    assert 400 <= status < 600 and len(body) < 20_000 and dict(headers)[b"content-type"] == b"application/json"
    assert b"support@aaaaaaaaaaaa" not in body and not any(ord(c) < 32 for c in error.message)


_MINTER = IdMinter(b"s" * 32)
_OWNER = Principal("ann", owner_tag("ann"), "k", frozenset({"inference"}), frozenset())
_ID = _MINTER.mint(7, owner_tag("ann"), b"12345678", 1e9)
FEEDBACK = [
    b'{"response_id":"chatcmpl-%b","score":1,"kind":"thumb"}' % _ID.encode(),
    b'{"response_id":"resp_%b","score":0.5,"kind":"rating","comment":"so \\u00e9 so"}' % _ID.encode(), _ID.encode(),
]  # fmt: skip


def feedback(mutator: Mutator) -> None:
    """A forged id is never taken for one of ours; what is stored is in range."""
    body = mutator.make()
    try:
        row = parse_feedback(body, _OWNER, _MINTER, time.time())
    except ApiError as error:
        assert error.status in (400, 403, 404, 413, 422) and "\n" not in error.message
    else:
        assert row.response_id == _ID and 0 <= row.score <= 1 and "\0" not in (row.comment or "")
        assert body.count(_ID.encode()) >= 1 or b"\\u" in body
    found = _MINTER.verify(body.decode("utf-8", "replace"))
    assert found is None or found.text == _ID


CONFIGS = [
    b'data_dir = "x"\n[gateway]\nport = 8080\nworkers = 2\nrequire_keys = true\nconnect_timeout = "2s"\n',
    b'[engine]\nmanaged = false\nurls = ["http://a:1"]\n[[route]]\nname = "support"\nmatch = [{ keyword = ["x"] }]\n',
    b'[[route]]\nname = "a"\n[[route.match]]\nregex = "x+"\nmetadata = { a = "b" }\n[rewards]\nsample = 0.5\n',
    b'[screening]\nmode = "audit"\n[capture]\nretention = "30d"\n[rollout]\nbake = "24h"\n[database]\nurl = "sqlite"\n',
]  # fmt: skip


def config(mutator: Mutator) -> None:
    """understudy.toml: settings, or one line that says what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "understudy.toml"
        path.write_bytes(mutator.make(3))
        try:
            load_settings(path)
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)


SNAPSHOTS = [json.dumps({
    "base": {"assignment": 1, "version": "base@000000000000", "model": "base", "replicas": ["e0"]},
    "routes": [{"name": "support", "salt": "s", "rollout": 3, "breaker": 5, "shadow": None, "arms": [
        {"assignment": 2, "arm": "stable", "version": "a", "model": "a", "low": 0.0, "high": 0.5, "replicas": ["e0"]},
        {"assignment": 3, "arm": "candidate", "version": "b", "model": "b", "low": 0.5, "high": 1.0, "replicas": []},
    ], "testers": [{"unit": "00", "assignment": 4, "arm": "candidate"}]}],
    "pinned": [], "endpoints": [{"name": "e0", "url": "http://127.0.0.1:1"}],
}).encode()]  # fmt: skip


def snapshot(mutator: Mutator) -> None:
    """A snapshot is complete, or refused by an exception that the watcher knows."""
    try:
        body = json.loads(mutator.make(3))
    except (ValueError, RecursionError):
        return
    try:
        found = from_json(1, 0.0, body)
    except (ValueError, KeyError, TypeError):
        return
    for route in found.routes:
        assert route.arms[0].low == 0.0 and route.arms[-1].high == 1.0


TARGETS: dict[str, tuple[Target, list[bytes], list[bytes]]] = {
    "protocol": (protocol, REQUESTS, REQUEST_WORDS),
    "stream": (stream, EVENTS, []),
    "broken": (broken_stream, EVENTS, [b"data: ", b"event: ", b'"usage":{', b'"error"', *STAMPED]),
    "framed": (framed_answer, [b"5\r\n" + b"a" * 5 + b"\r\n", b"0\r\n\r\n"], SIZES),
    "answers": (answers, ANSWERS, [b'"message":', b'"detail":', b'"choices":[', b"[{", b"}]", b"1e400", b'"index":1']),
    "feedback": (feedback, FEEDBACK, [b'"score":', b'"kind":', b'"comment":', b"[" * 2000, b'{"a":' * 2000]),
    "config": (config, CONFIGS, [b"[", b"]", b"=", b"'''", b"[[route]]\n", b"[gateway]\n", b"port = ", b'"1s"', b"inf"]),
    "snapshot": (snapshot, SNAPSHOTS, [b'"low":', b'"arms":[', b"{}", b"[]", b"null", b'"x"', b"1e400", b"NaN"]),
}
