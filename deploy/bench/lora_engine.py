"""The stand-in engine with adapters that can be probed: `python -m deploy.bench.lora_engine PORT`.

What a controller needs to bring a version up: each model has next-token logprobs of its own, made from its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

import uvloop

from deploy.bench.upstream import Upstream, answer

TOKENS = 20


def logprobs(model: str, prefix: list[int]) -> dict[str, float]:
    """Twenty tokens and their logprobs; the same for the same model and prefix."""
    digest = hashlib.sha256(json.dumps([model, prefix]).encode()).digest()
    return {f"token_id:{number}": -0.1 - digest[number] / 64 for number in range(TOKENS)}


class Engine(Upstream):
    """One connection."""

    def control(self) -> bytes:
        """Probes; the rest as the other stand-in does."""
        if self.path != b"/v1/completions":
            return super().control()
        asked = json.loads(self.body)
        choices = [
            {"index": index, "text": "x", "logprobs": {"top_logprobs": [logprobs(asked["model"], prefix)]}}
            for index, prefix in enumerate(asked["prompt"])
        ]
        return answer(json.dumps({"id": "cmpl-1", "model": asked["model"], "choices": choices}).encode())


async def serve(port: int) -> None:
    """Listen on loopback until ended."""
    adapters: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(adapters), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
