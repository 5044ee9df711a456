"""Stand-ins for the benchmark of the screening: `python -m deploy.bench.screening_peers engine|guard PORT`.

The engine streams the words of metadata.say, one an event, `gap` seconds apart after `wait`. The guard calls everything
safe after as many seconds as the text says (`[guard 0.15]`), one request at a time where it says `[busy 0.1]`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

import uvloop

DELAY = re.compile(r"\[(guard|busy) ([0-9.]+)\]")
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def answer(body: Any, kind: bytes = b"application/json") -> bytes:
    """A whole HTTP response."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(text), text)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def engine(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """One answer, as vLLM writes it."""
    told = request.get("metadata") or {}
    await asyncio.sleep(float(told.get("wait", 0)))
    base = {"id": "chatcmpl-x", "created": 1, "model": request.get("model")}
    words = str(told.get("say", "fine")).split(" ")
    usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
    if not request.get("stream"):
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        writer.write(answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage}))
        return

    def send(delta: dict[str, Any], end: str | None = None) -> None:
        choices = [{"index": 0, "delta": delta, "finish_reason": end}]
        fields = json.dumps({**base, "choices": choices}, separators=(",", ":"))
        writer.write(chunk(f"data: {fields}\n\n".encode()))

    writer.write(SSE)
    loop = asyncio.get_running_loop()
    began, gap = loop.time(), float(told.get("gap", 0))
    for number, word in enumerate(words):
        await asyncio.sleep(max(0.0, began + number * gap - loop.time()))
        send({"content": f"{word} "})
    send({}, "stop")
    writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))


async def guard(request: dict[str, Any], writer: asyncio.StreamWriter, busy: asyncio.Lock) -> None:
    """Safe, later."""
    found = DELAY.search(json.dumps(request))
    if found and found[1] == "busy":
        async with busy:
            await asyncio.sleep(float(found[2]))
    elif found:
        await asyncio.sleep(float(found[2]))
    row = {"unsafe": False, "score": 0.01, "categories": [], "unavailable": False, "reason": "", "scores": {}}
    writer.write(answer({"results": [{"id": item["id"], **row} for item in request["items"]]}))


async def serve(role: str, port: int) -> None:
    """Listen on loopback until ended."""
    busy = asyncio.Lock()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b"{}"
                if head.startswith(b"get"):
                    writer.write(answer(b"", b"text/plain"))
                else:
                    request = json.loads(body)
                    await (engine(request, writer) if role == "engine" else guard(request, writer, busy))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=1024, limit=1024**2)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
