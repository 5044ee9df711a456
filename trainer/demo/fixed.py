"""Fixed prompts at temperature 0: how a version answers is known before it serves, so each answer shows whose it is.

The reference is asked of an engine directly, by the version's own name: what the gateway routes, restamps or mixes up
has no part in it. Versions that continue one another often say the same; what they think of each token differs all the
same, so answers are compared by the logprobs of their tokens. Whatever runs beside a request moves these a little:
only prompts count at which two versions are further apart than that by far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import httpx

from adapters.errors import TrainingError
from trainer.demo import world
from trainer.demo.measure import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from trainer.demo.crowd import Asked

POOL = 300               # prompts asked of each version, to choose from
CHOSEN = 16              # prompts that users send
APART = 0.5              # nats: versions that are nearer at a prompt are not told apart by it
GREEDY: Mapping[str, Any] = MappingProxyType({"temperature": 0, "logprobs": True, "top_logprobs": 5})

Place = tuple[str, Mapping[str, float]]   # the token that was chosen, and the likeliest ones with their logprobs
Answer = Sequence[Place]
Said = Mapping[str, Answer]               # prompt → how one version answers it


@dataclass(frozen=True, slots=True)
class Judgement:
    """Answers that were judged; `wrong`: those that the version in their header would not have given."""

    judged: tuple[Asked, ...]
    wrong: tuple[Asked, ...]


async def answers(engine: str, model: str) -> dict[str, Answer]:
    """How a model of an engine (its URL, or unix:PATH) answers each prompt of the pool. Raises TrainingError."""
    prompts = list(dict.fromkeys(example.prompt for example in world.examples(POOL, 11, "held_out")))
    path = engine.removeprefix("unix:")
    transport = httpx.AsyncHTTPTransport(uds=path) if path != engine else None
    limit = asyncio.Semaphore(16)

    async def one(http: httpx.AsyncClient, prompt: str) -> Answer:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": MAX_NEW_TOKENS, **GREEDY}
        async with limit:
            answer = await http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            raise TrainingError(f"the engine answered {answer.status_code} for {model}: {answer.text[:300]}")
        return list(places(answer.json()["choices"][0]))

    base = "http://engine" if transport else engine
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=120) as http:
        found = await asyncio.gather(*(one(http, prompt) for prompt in prompts))
    return dict(zip(prompts, found, strict=True))


def places(choice: Mapping[str, Any]) -> Iterator[Place]:
    """Of a choice of a chat completion, or of one of its chunks; none where no logprobs were asked for."""
    for token in (choice.get("logprobs") or {}).get("content") or ():
        yield token["token"], {top["token"]: top["logprob"] for top in token["top_logprobs"]}


def distance(one: Answer, other: Answer) -> float:
    """Nats between two answers: the most that a chosen token's logprob differs, up to where they part.

    Two that part only because two tokens were equally likely are near each other; infinite where one says nothing.
    """
    if not one or not other:
        return float("inf")
    most = 0.0
    for (mine, seen), (theirs, shown) in zip(one, other, strict=False):
        for token in (mine, theirs):  # one that is not listed is less likely still than the last that is
            most = max(most, abs(seen.get(token, min(seen.values())) - shown.get(token, min(shown.values()))))
        if mine != theirs:
            break
    return most


def choose(known: Mapping[str, Said], one: str, other: str) -> list[str]:
    """Prompts that tell two versions apart, those first that tell both from the others too."""
    found = []
    for prompt, mine in known[one].items():
        theirs = known[other][prompt]
        rest = [said[prompt] for version, said in known.items() if version not in (one, other)]
        if (apart := distance(mine, theirs)) >= APART:
            nearest = min((distance(each, third) for each in (mine, theirs) for third in rest), default=APART)
            found.append((min(nearest, apart), prompt))
    return [prompt for _, prompt in sorted(found, reverse=True)[:CHOSEN]]


def judge(seen: Iterable[Asked], known: Mapping[str, Said], between: Sequence[str]) -> Judgement:
    """Hold the answers to fixed prompts against what the version in their header says to them.

    `between`: the versions that may have been mixed up. An answer is wrong that is further from its own version's than
    half of the way to the nearest other's. Where another is nearer than APART an answer says nothing: it is not judged.
    """
    judged, wrong = [], []
    for asked in seen:
        mine = known.get(asked.version, {}).get(asked.fixed)
        if mine is None or asked.status != 200 or asked.error:
            continue
        apart = min(distance(mine, known[version][asked.fixed]) for version in between if version != asked.version)
        if apart < APART:
            continue
        judged.append(asked)
        if distance(mine, asked.places) > apart / 2:
            wrong.append(asked)
    return Judgement(tuple(judged), tuple(wrong))
