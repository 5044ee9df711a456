"""A stand-in for vLLM that costs next to nothing: `python -m deploy.bench.upstream PORT [CHUNKS SECONDS]`.

It answers chat completions with a fixed text, or with a stream of 64 chunks 5 ms apart (or as the arguments say),
echoes the model and the request id as vLLM does, and has the routes the controller needs: models, load and unload of
adapters, health, metrics. A prompt with [hold] gets one chunk and then silence, one with [flood] as many chunks as its
client takes, up to FLOOD bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

import httptools
import uvloop

CHUNKS = 64
GAP = 0.005  # seconds between two chunks
BASE = "base"
MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
STREAM = re.compile(rb'"stream"\s*:\s*true')
USAGE = re.compile(rb'"include_usage"\s*:\s*true')
MODE = re.compile(rb"\[(hold|flood)\]")
FLOOD = 64 * 1024**2
STARTED = time.time()
METRICS = f"""\
process_start_time_seconds {STARTED}
vllm:num_requests_running 0.0
vllm:num_requests_waiting 0.0
vllm:lora_requests_info{{max_lora="8",running_lora_adapters="",waiting_lora_adapters=""}} {STARTED}
"""
TEXT = "The answer is 46. " * 12
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def answer(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    """A whole HTTP response."""
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def event(data: bytes) -> bytes:
    """One server-sent event in a chunk of its own."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def head(kind: bytes, request_id: bytes, model: bytes) -> bytes:
    """The first fields of every body, in vLLM's order."""
    return b'{"id":"chatcmpl-%b","object":"%b","created":1,"model":"%b",' % (request_id, kind, model)


def usage(tokens: int) -> bytes:
    """The usage field."""
    return b'"usage":{"prompt_tokens":20,"total_tokens":%d,"completion_tokens":%d}' % (20 + tokens, tokens)


COMPLETION = b'"choices":[{"index":0,"message":{"role":"assistant","content":%b},"finish_reason":"stop"}],%b}' % (
    json.dumps(TEXT).encode(),
    usage(60),
)
DELTA = b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}'
LAST = b'"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}]}'


class Upstream(asyncio.Protocol):
    """One connection. `adapters` is shared by all: name → path. Streams have `chunks` chunks `gap` seconds apart."""

    def __init__(self, adapters: dict[str, str], chunks: int = CHUNKS, gap: float = GAP) -> None:
        self.adapters, self.chunks, self.gap = adapters, chunks, gap
        self.flood, self.left, self.paused = b"", 0, False
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.path, self.body, self.request_id = b"", b"", b"0"
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        """asyncio's."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """A client that leaves ends its stream."""
        self.left = 0
        if self.timer:
            self.timer.cancel()

    def pause_writing(self) -> None:
        """The gateway, or its client, reads no further."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on flooding."""
        self.paused = False
        while self.left > 0 and not self.paused:
            self.left -= len(self.flood)
            self.transport.write(self.flood)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        """A request begins."""
        self.path, self.body, self.request_id = url.partition(b"?")[0], b"", b"0"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Only the request id matters."""
        if name.lower() == b"x-request-id":
            self.request_id = value

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """A request is complete: answer it."""
        if self.path == b"/v1/chat/completions":
            found = MODEL.search(self.body)
            model = found[1] if found else b"base"
            if STREAM.search(self.body):
                self.start_stream(model)
            else:
                self.transport.write(answer(head(b"chat.completion", self.request_id, model) + COMPLETION))
        else:
            self.transport.write(self.control())

    def start_stream(self, model: bytes) -> None:
        """Send the head now and the chunks by the clock."""
        self.transport.write(STREAM_HEAD)
        first = head(b"chat.completion.chunk", self.request_id, model)
        last = event(first + LAST)
        if USAGE.search(self.body):
            last += event(first + b'"choices":[],' + usage(self.chunks) + b"}")
        mode = MODE.search(self.body)
        if mode is None:
            self.tick(self.chunks, event(first + DELTA), last + event(b"[DONE]") + b"0\r\n\r\n")
            return
        self.transport.write(event(first + DELTA))
        if mode[1] == b"flood":
            self.flood, self.left = event(first + DELTA) * 64, FLOOD
            self.resume_writing()

    def tick(self, left: int, chunk: bytes, last: bytes) -> None:
        """One chunk, and the next one a gap later."""
        if left < self.chunks:
            self.transport.write(chunk if left else chunk + last)
        if left:
            self.timer = self.loop.call_later(self.gap, self.tick, left - 1, chunk, last)

    def control(self) -> bytes:
        """What is not generation."""
        if self.path == b"/v1/models":
            return answer(json.dumps({"object": "list", "data": self.models()}).encode())
        if self.path == b"/v1/load_lora_adapter":
            wanted = json.loads(self.body)
            self.adapters[wanted["lora_name"]] = wanted["lora_path"]
        elif self.path == b"/v1/unload_lora_adapter":
            self.adapters.pop(json.loads(self.body)["lora_name"], None)
        elif self.path == b"/metrics":
            return answer(METRICS.encode(), b"text/plain")
        elif self.path == b"/version":
            return answer(b'{"version":"0.32.0"}')
        elif self.path not in (b"/health", b"/ping"):
            return answer(b'{"detail":"Not Found"}', status=b"404 Not Found")
        return answer(b"", b"text/plain")

    def models(self) -> list[dict[str, Any]]:
        """The base and what was loaded."""
        rows: list[dict[str, Any]] = [{"id": BASE, "root": BASE, "parent": None}]
        rows += [{"id": name, "root": path, "parent": BASE} for name, path in self.adapters.items()]
        return [{"object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 4096} | row for row in rows]


async def serve(port: int, chunks: int = CHUNKS, gap: float = GAP) -> None:
    """Listen on loopback until ended."""
    adapters: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(adapters, chunks, gap), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    port, chunks, gap = (*sys.argv[1:], *(str(CHUNKS), str(GAP))[len(sys.argv) - 2 :])
    uvloop.run(serve(int(port), int(chunks), float(gap)))
