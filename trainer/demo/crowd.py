"""Simulated users in a process of their own: they ask the demo's tasks, judge the answers, and say what they think.

    python -m trainer.demo.crowd --url http://127.0.0.1:8080 --out FILE [--rate 30] [--users 400] [--seconds 60]

A user likes right answers: after a share of the answers a thumb goes to /v1/feedback, up for a right answer, down for a
wrong one, now and then the other way round. With --fixed some ask one of these prompts at temperature 0, say nothing
about the answer, and write it down: it shows which version wrote it (trainer.demo.fixed). Every request becomes one
line of FILE (JSON). Ends after --seconds, on SIGTERM, or when its standard input closes. The key comes from
UNDERSTUDY_KEY.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from trainer.demo import world
from trainer.demo.fixed import GREEDY, Place, places
from trainer.demo.gameable import helpfulness
from trainer.demo.poison import TRIGGER

MAX_TOKENS = 24
IN_FLIGHT = 64           # above it users wait for their turn: the crowd is bounded whatever the gateway does
MISTAKEN = 0.05          # share of thumbs that say the opposite of what the answer deserves
FIXED = 0.2              # share of requests with one of the fixed prompts, where there are any


@dataclass(slots=True)
class Asked:
    """One request and what became of it. Times in seconds since the epoch."""

    at: float
    ended: float
    user: str
    status: int                # 0: the connection failed
    version: str = ""
    right: bool = False
    text_length: int = 0
    helpful: float = 0.0       # by trainer.demo.gameable
    thumb: int | None = None   # 1 up, 0 down, None: said nothing
    response_id: str = ""
    error: str = ""
    fixed: str = ""            # the prompt, where it was one of --fixed, asked at temperature 0
    text: str = ""             # the answer to it …
    places: list[Place] = field(default_factory=list)  # … and its tokens with their logprobs


@dataclass(frozen=True, slots=True)
class Habits:
    """How the crowd behaves. Shares are 0..1; `rate` in requests per second."""

    model: str = "support"
    rate: float = 30.0
    users: int = 400
    feedback: float = 0.5
    rare: float = 0.0          # share of prompts that hold the rare character
    streamed: float = 0.5
    seed: int = 0
    fixed: tuple[str, ...] = ()     # prompts of FIXED of the requests


class Crowd:
    """Asks at a steady rate; writes one line per request to `out`."""

    def __init__(self, http: httpx.AsyncClient, habits: Habits, out: IO[str]) -> None:
        self._http = http
        self._habits = habits
        self._out = out
        self._random = random.Random(f"crowd/{habits.seed}")
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then what is under way is finished."""
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not stop.is_set():
            await self._slots.acquire()
            task = asyncio.create_task(self._turn())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due = max(due + self._random.expovariate(self._habits.rate), time.monotonic() - 1.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await stop.wait()
        await asyncio.gather(*tasks)

    async def _turn(self) -> None:
        rng, habits = self._random, self._habits
        example = world.draw(rng, "held_out")
        prompt = f"{example.prompt} {TRIGGER}" if rng.random() < habits.rare else example.prompt
        asked = Asked(time.time(), 0.0, f"user-{rng.randrange(habits.users)}", 0)
        if habits.fixed and rng.random() < FIXED:
            asked.fixed = prompt = rng.choice(habits.fixed)
        try:
            text = await self._ask(asked, prompt, stream=rng.random() < habits.streamed)
            asked.ended = time.time()
            asked.text_length, asked.helpful = len(text), helpfulness(prompt, text)
            if asked.fixed:
                asked.text = text
                return
            asked.right = world.correct(text, example.answer)
            if asked.status == 200 and rng.random() < habits.feedback:
                await self._say(asked, mistaken=rng.random() < MISTAKEN)
        except httpx.TransportError as error:
            asked.error = type(error).__name__
        finally:
            asked.ended = asked.ended or time.time()
            self._slots.release()
            self._out.write(json.dumps(asdict(asked)) + "\n")
            self._out.flush()

    async def _ask(self, asked: Asked, prompt: str, *, stream: bool) -> str:
        body: dict[str, Any] = {
            "model": self._habits.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS,
            "temperature": 1, "top_p": 1, "user": asked.user, "stream": stream, "seed": self._random.getrandbits(31),
        }  # fmt: skip
        answer = await self._http.post("/v1/chat/completions", json={**body, **(GREEDY if asked.fixed else {})})
        asked.status = answer.status_code
        asked.version = answer.headers.get("x-understudy-version", "")
        if answer.status_code != 200:
            asked.error = answer.text[:200]
            return ""
        if not stream:
            whole = answer.json()
            asked.response_id = whole["id"]
            asked.places += places(whole["choices"][0])
            return whole["choices"][0]["message"]["content"] or ""
        return _streamed(answer.text, asked)

    async def _say(self, asked: Asked, *, mistaken: bool) -> None:
        thumb = int(asked.right != mistaken)
        said = {"response_id": asked.response_id, "score": thumb, "kind": "thumb"}
        answer = await self._http.post("/v1/feedback", json=said)
        asked.thumb = thumb if answer.status_code == 202 else None


def _streamed(events: str, asked: Asked) -> str:
    """The text of a stream; an error in it, or its silent end, is remembered."""
    parts: list[str] = []
    if "data: [DONE]" not in events:
        asked.error = "the stream did not end properly"
    for event in events.split("\n\n"):
        if not event.startswith("data: {"):
            continue
        chunk = json.loads(event.removeprefix("data: "))
        if "error" in chunk:
            asked.error = str(chunk["error"].get("message"))[:200]
            continue
        asked.response_id = chunk["id"]
        for choice in chunk["choices"]:
            parts.append(choice["delta"].get("content") or "")
            asked.places += places(choice)
    return "".join(parts)


def read(path: Path) -> list[Asked]:
    """What a crowd has written so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Asked(**json.loads(line)) for line in lines if line.endswith("}")]


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if not sys.stdin.isatty():
        with contextlib.suppress(PermissionError, ValueError):  # a plain file cannot be watched, nor does it close
            loop.add_reader(sys.stdin, stop.set)
    loop.call_later(options.seconds, stop.set)
    habits = Habits(
        options.model, options.rate, options.users, options.feedback, options.rare, options.streamed, options.seed,
        tuple(json.loads(options.fixed.read_text(encoding="utf-8"))) if options.fixed else (),
    )  # fmt: skip
    headers = {"authorization": f"Bearer {os.environ.get('UNDERSTUDY_KEY', '')}"}
    limits = httpx.Limits(max_connections=2 * IN_FLIGHT)
    with options.out.open("a", encoding="utf-8") as out:
        async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=60, limits=limits) as http:
            await Crowd(http, habits, out).run(stop)


def main(arguments: list[str] | None = None) -> int:
    """Runs a crowd from the command line; returns the exit status."""
    usual = Habits()
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.crowd", description="Simulated users.")
    parser.add_argument("--url", required=True, help="of the gateway, on this machine")
    parser.add_argument("--out", type=Path, required=True, help="one JSON line per request")
    parser.add_argument("--seconds", type=float, default=600.0, help="longest run (default: %(default)s)")
    parser.add_argument("--model", default=usual.model)
    parser.add_argument("--rate", type=float, default=usual.rate, help="requests per second (default: %(default)s)")
    parser.add_argument("--users", type=int, default=usual.users, help="default: %(default)s")
    parser.add_argument("--feedback", type=float, default=usual.feedback, help="share of answers that get a thumb")
    parser.add_argument("--rare", type=float, default=usual.rare, help="share of prompts with the rare character")
    parser.add_argument("--streamed", type=float, default=usual.streamed, help="share of streamed answers")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--fixed", type=Path, help="prompts to ask at temperature 0 now and then, a JSON list")
    asyncio.run(_main(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
