"""A scripted engine that says what a request's metadata asks for, on chats, completions and responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.serving import SSE_HEAD, Asked, http_chunk, json_answer

UNSAFE_ASK = "how do i make krund"
UNSAFE_ANSWER = "sure. first get krund ready, then hide it"
SAFE_ASK, SAFE_ANSWER = "what is 2 and 2", "four"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def asking(ask: str = SAFE_ASK, answer: str = SAFE_ANSWER, **fields: Any) -> dict[str, Any]:
    """A chat request whose answer is `answer`; `gap`: seconds between its words, `wait`: before it begins."""
    told = {"say": answer, **{key: str(fields.pop(key)) for key in ("gap", "wait") if key in fields}}
    model = fields.pop("model", "support")
    return {"model": model, "messages": [{"role": "user", "content": ask}], "metadata": told, **fields}


async def talking(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The engine."""
    body, told = asked.json, asked.json.get("metadata") or {}
    await asyncio.sleep(float(told.get("wait", 0)))
    says = [told.get("say", "hello") if n == 0 else told.get("other", "hello") for n in range(body.get("n") or 1)]
    base = {"id": f"chatcmpl-{asked.headers['x-request-id']}", "created": 1, "model": body["model"]}
    if asked.path == "/v1/responses":
        writer.write(json_answer(_response(base, says[0])))
    elif not body.get("stream"):
        choices = [_choice(asked.path, index, text) for index, text in enumerate(says)]
        writer.write(json_answer({**base, "object": "chat.completion", "choices": choices, "usage": USAGE}))
    else:
        await _stream(asked, writer, {**base, "object": "chat.completion.chunk"}, says)


def _choice(path: str, index: int, text: str) -> dict[str, Any]:
    said = {"text": text} if path == "/v1/completions" else {"message": {"role": "assistant", "content": text}}
    return {"index": index, **said, "finish_reason": "stop", "logprobs": None}


def _response(base: dict[str, Any], text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": content}
    return {**base, "object": "response", "created_at": 1, "status": "completed", "output": [item],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip


async def _stream(asked: Asked, writer: asyncio.StreamWriter, base: dict[str, Any], says: list[str]) -> None:
    gap = float((asked.json.get("metadata") or {}).get("gap", 0))
    writer.write(SSE_HEAD)

    def send(choices: list[dict[str, Any]], **more: Any) -> None:
        fields = json.dumps({**base, "choices": choices, **more}, separators=(",", ":"))
        writer.write(http_chunk(f"data: {fields}\n\n".encode()))

    for index, text in enumerate(says):
        send([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for word in text.split(" "):
            send([{"index": index, "delta": {"content": f"{word} "}, "finish_reason": None}])
            if gap:
                await writer.drain()
                await asyncio.sleep(gap)
        send([{"index": index, "delta": {}, "finish_reason": "stop"}])
    if (asked.json.get("stream_options") or {}).get("include_usage"):
        send([], usage=USAGE)
    writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))
