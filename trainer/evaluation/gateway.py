"""Asks a version through the gateway, as clients do: what is evaluated is what is served. HTTP only, no torch.

The version is pinned by name with an operator's key; the controller is asked to load it (as `adapter verify` does), and
again while a long evaluation runs. Every answer must come from that very version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from adapters.database import Database
from adapters.errors import Conflict, EngineUnavailable, NotFound, UnderstudyError
from adapters.keys import create_key, list_keys, revoke_key
from trainer.evaluation.answers import Answer, Ask, storable
from trainer.installation import Installation

TRIES = 6
APPEARS_WITHIN = 30.0    # seconds from "loaded" until every worker routes to it
FORGOTTEN_AFTER = 86400.0  # seconds; no evaluation takes that long
OWNER = "understudy eval"
RELOAD_EVERY = 300.0     # seconds; the controller keeps a version that was asked for by name for 600
_BUSY = frozenset({429, 502, 503, 504})
_WAITS = (0.2, 0.5, 1.0, 2.0, 4.0)
_OUR_FAULT = frozenset({401, 403, 404, 405, 413})


class GatewayAnswers:
    """Answers from a pinned version. `model`: what is asked for; `expected`: the version that must answer."""

    def __init__(
        self,
        installation: Installation,
        model: str,
        key: str,
        *,
        expected: str,
        concurrency: int = 8,
        top_p: float = 1.0,
        logprobs: bool = True,
        timeout: float = 600.0,
    ) -> None:
        self.model = model
        self.expected = expected
        self._answers = False           # has answered once: before, it may not be routed to everywhere yet
        self._installation = installation
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._concurrency = concurrency
        self._options: dict[str, Any] = {"top_p": top_p} | ({"logprobs": True} if logprobs else {})
        self._timeout = httpx.Timeout(timeout, connect=5.0)

    def run(self, asks: Sequence[Ask], answered: Callable[[Ask, Answer], None]) -> None:
        """See Answering. Raises NotFound, Conflict, EngineUnavailable."""
        asyncio.run(self._run(asks, answered))

    async def _run(self, asks: Sequence[Ask], answered: Callable[[Ask, Answer], None]) -> None:
        await asyncio.to_thread(self._load)
        queue = iter(asks)
        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(timeout=self._timeout, limits=limits, trust_env=False) as http:

            async def work() -> None:
                for ask in queue:  # one iterator for all: each takes the next
                    answered(ask, await self._answer(http, ask))

            try:
                async with asyncio.TaskGroup() as tasks:
                    keeping = tasks.create_task(self._keep_loaded())
                    workers = [tasks.create_task(work()) for _ in range(self._concurrency)]
                    await asyncio.wait(workers)
                    keeping.cancel()
            except BaseExceptionGroup as group:
                raise _first(group) from None

    async def _keep_loaded(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_EVERY)
            await asyncio.to_thread(self._load)

    def _load(self) -> None:
        """Have the controller load and probe the version. The base is always there."""
        if "@" not in self.model:
            return
        control = self._installation.control_url
        try:
            answer = httpx.post(
                f"{control}/api/v1/adapters/{self.model}/verify",
                headers={"authorization": f"Bearer {self._installation.operator_token()}"},
                timeout=httpx.Timeout(200.0, connect=5.0),
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise _nobody("controller", control, error) from None
        if answer.status_code != 200:
            raise {404: NotFound, 409: Conflict}.get(answer.status_code, EngineUnavailable)(_message(answer))
        failed = [engine for engine in answer.json()["engines"] if not engine["ok"]]
        if failed:
            raise EngineUnavailable(f"{self.model} cannot be loaded on {failed[0]['engine']}: {failed[0]['error']}")

    async def _answer(self, http: httpx.AsyncClient, ask: Ask) -> Answer:
        body = {
            "model": self.model, "messages": ask.messages, "max_tokens": ask.part.max_tokens,
            "temperature": ask.part.temperature, "seed": ask.seed, **self._options,
        }  # fmt: skip
        answer, seconds = await self._post(http, body)
        if answer.status_code != 200:
            if answer.status_code in _OUR_FAULT or answer.status_code in _BUSY:
                raise EngineUnavailable(f"the gateway answered {answer.status_code}: {_message(answer)}")
            return Answer(seconds=seconds, error=f"{answer.status_code}: {_message(answer)}"[:300])
        self._check_version(answer.headers.get("x-understudy-version", ""))
        return _read(answer.json(), seconds)

    def _check_version(self, served: str) -> None:
        if served != self.expected:
            raise Conflict(f"{self.expected} was asked, but {served or 'something without a version'} answered")
        self._answers = True

    async def _post(self, http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[httpx.Response, float]:
        """The answer and the seconds it took, after as many tries as make sense."""
        url = f"{self._installation.gateway_url}/v1/chat/completions"
        appears_until = time.monotonic() + APPEARS_WITHIN
        tries = 0
        while True:
            tries += 1
            began = time.monotonic()
            try:
                answer = await http.post(url, json=body, headers=self._headers)
            except httpx.HTTPError as error:
                if tries >= TRIES:
                    raise _nobody("gateway", self._installation.gateway_url, error) from None
                wait = _WAITS[tries - 1]
            else:
                seconds = time.monotonic() - began
                fresh = answer.status_code in (401, 404) and not self._answers and time.monotonic() < appears_until
                if not fresh and (answer.status_code not in _BUSY or tries >= TRIES):
                    return answer, seconds
                wait = 0.1 if fresh else max(_WAITS[tries - 1], _retry_after(answer))
            await asyncio.sleep(wait)


@contextmanager
def operator_key(database: Database, given: str, wanted: bool) -> Iterator[str]:
    """The key to ask with: `given`, or where keys are wanted one made for this evaluation and revoked after it."""
    if given or not wanted:
        yield given
        return
    _revoke_forgotten(database)
    key, secret = create_key(database, OWNER, ["inference", "operator"])
    try:
        yield secret
    finally:
        revoke_key(database, key.id)


def _revoke_forgotten(database: Database) -> None:
    """Keys of evaluations that were killed before they could revoke theirs."""
    for key in list_keys(database):
        if key.owner == OWNER and key.revoked_at is None and time.time() - key.created_at > FORGOTTEN_AFTER:
            revoke_key(database, key.id)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a user should hear of: the first of ours, else the first."""
    ours = group.subgroup(UnderstudyError)
    return (ours or group).exceptions[0]


def _read(body: dict[str, Any], seconds: float) -> Answer:
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return Answer(
        text=storable(choice["message"].get("content") or ""),
        finish=choice.get("finish_reason") or "",
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        seconds=seconds,
        logprob=sum(float(token["logprob"]) for token in tokens) if tokens else None,
        logprob_tokens=len(tokens),
    )


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(10.0, float(text)) if text.isdigit() else 0.0


def _message(answer: httpx.Response) -> str:
    try:
        return " ".join(str(answer.json()["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.url} gave no reason: is it Understudy's?"


def _nobody(who: str, url: str, error: Exception) -> EngineUnavailable:
    reason = str(error) or type(error).__name__
    return EngineUnavailable(f"no {who} answers at {url} ({reason}): start `understudy up`")
