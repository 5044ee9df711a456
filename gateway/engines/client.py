"""The control path's client of one vLLM. Everything that can go wrong on the way leaves here as one of three errors.

EngineUnavailable: no answer (refused, timed out, broken off, or nonsense). EngineRefused: an answer with a status of
400 or more. ProbeFailed: a probe was not answered with logprobs. The data plane has a pool of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from adapters.errors import EngineRefused, EngineUnavailable, ProbeFailed
from gateway.engines.engine_metrics import EngineMetrics, parse_metrics

NON_FINITE = {-1: float("nan")}       # what `probe` returns per prefix when the engine computed NaN or infinity
TOP_LOGPROBS = 20                     # vLLM's default upper limit
_SLOW = httpx.Timeout(120.0, connect=5.0)  # loading from slow storage
_PROBE = httpx.Timeout(60.0, connect=5.0)
_TOKEN = re.compile(r"token_id:(\d+)")
_MESSAGE_LIMIT = 500                  # characters of an engine's own words that are repeated


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One entry of /v1/models: an adapter when it has a parent, else the base."""

    name: str
    root: str
    parent: str | None


class EngineClient:
    """Talks to the engine at `url` (http://host:port or unix:/path), with its API key where it has one.

    `patience`: seconds to wait for answers that should come at once.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        patience: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        # vLLM closes idle connections after five seconds: let go of them first.
        limits = httpx.Limits(max_connections=8, keepalive_expiry=4.0)
        self._http = httpx.AsyncClient(
            base_url="http://engine" if socket else url,
            transport=transport or httpx.AsyncHTTPTransport(uds=socket, limits=limits, retries=1),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(patience),
            trust_env=False,
        )

    async def __aenter__(self) -> EngineClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def health(self) -> None:
        """Return when the engine says it is well. Raises EngineUnavailable or EngineRefused (503: it is dead)."""
        await self._request("GET", "/health")

    async def models(self) -> dict[str, LoadedModel]:
        """What /v1/models lists, by name."""
        body = _json(await self._request("GET", "/v1/models"))
        try:
            listed = [LoadedModel(str(m["id"]), str(m["root"]), m.get("parent")) for m in body["data"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineUnavailable(f"{self.url} answers /v1/models with something else: is it a vLLM?") from error
        return {model.name: model for model in listed}

    async def metrics(self) -> EngineMetrics:
        """The engine process's identity and what runs on it now."""
        return parse_metrics((await self._request("GET", "/metrics")).text)

    async def load(self, name: str, path: str) -> None:
        """Load the adapter at `path` as `name`. A 200 is not yet proof that it serves: confirm and probe."""
        await self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, _SLOW)

    async def unload(self, name: str) -> None:
        """Take `name` off the engine's list; one that is not listed is fine already."""
        try:
            await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _SLOW)
        except EngineRefused as error:
            if error.status != 404 or "cannot be found" not in str(error):
                raise

    async def probe(self, model: str, prefixes: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        """The likeliest next tokens after each prefix of token ids: id → natural logprob, up to 20 of them.

        Where the engine computed NaN or infinity, every prefix gives NON_FINITE. Raises ProbeFailed when it answers
        without logprobs, or not in time: the engine is there, and others may be served well.
        """
        body = {
            "model": model,
            "prompt": [list(prefix) for prefix in prefixes],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": TOP_LOGPROBS,
            "return_tokens_as_token_ids": True,
        }
        try:
            answer = _json(await self._request("POST", "/v1/completions", body, _PROBE))
        except EngineUnavailable as error:
            if not timed_out(error):
                raise
            raise ProbeFailed(f"no answer to a probe within {_PROBE.read:.0f} s: the engine is overloaded") from error
        except EngineRefused as error:
            if "out of range float" in str(error).lower():  # vLLM cannot write NaN as JSON, and says so with a 400
                return [dict(NON_FINITE) for _ in prefixes]
            raise
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            found = [_logprobs(choice["logprobs"]["top_logprobs"][0]) for choice in choices]
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise ProbeFailed(f"{self.url} answers /v1/completions without logprobs: is it a vLLM?") from error
        if len(found) != len(prefixes):
            raise ProbeFailed(f"{self.url} answered {len(found)} of {len(prefixes)} probes")
        return found

    async def status(self, method: str, path: str) -> int:
        """The status of one request without a body: for checking what can be reached."""
        try:
            return (await self._http.request(method, path)).status_code
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, patience: httpx.Timeout | None = None
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body, timeout=patience or self._http.timeout)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            if method != "GET":
                raise self._unavailable(error) from error
            response = await self._again(method, path)  # an idle connection that was just being closed
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(error) from error
        if response.status_code >= 400:
            raise EngineRefused(_message(response), response.status_code)
        return response

    async def _again(self, method: str, path: str) -> httpx.Response:
        try:
            return await self._http.request(method, path)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> EngineUnavailable:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            reason = f"no answer in time ({type(error).__name__})"
        return EngineUnavailable(f"the engine at {self.url} cannot be reached: {reason}")


def timed_out(error: Exception) -> bool:
    """True for an EngineUnavailable that came from waiting too long: the engine may only be busy."""
    return isinstance(error.__cause__, httpx.TimeoutException)


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)  # reads NaN and Infinity, which some builds write
    except ValueError as error:
        path = response.request.url.path
        raise EngineUnavailable(f"the engine answered {path} with something other than JSON") from error


def _logprobs(listed: dict[str, float | None]) -> dict[int, float]:
    """{'token_id:17': -0.3} → {17: -0.3}; a null logprob is NaN."""
    found = {}
    for token, logprob in listed.items():
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ValueError(token)
        found[int(match[1])] = float("nan") if logprob is None else float(logprob)
    return found


def _message(response: httpx.Response) -> str:
    """The engine's own words, from any of the shapes its builds use, shortened to one line."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
    text = " ".join(str(body).split()) or response.reason_phrase
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 3] + "..."
