"""The guard's weights behind any vLLM: POST {url}/v1/completions, one token with its log probabilities.

Token ids go out, so that both back ends judge the same prompt; token ids come back (`return_tokens_as_token_ids`).
vLLM keeps what prompts have in common (automatic prefix caching), the second call's prompt included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from monitors.llama_guard.tokens import UNSAFE, VerdictTokens, verdict_tokens
from monitors.llama_guard.types import GuardError, GuardUnavailable, Prompt, Scored, Tokenizer

_LOGPROBS = 20        # vLLM's largest by default
_LONGEST_LIST = 64    # tokens: more categories than any taxonomy has


class VllmBackend:
    """A vLLM at `url` that serves the checkpoint as `model` (empty: the only one it has)."""

    name = "vllm"

    def __init__(self, url: str, model: str, tokenizer: Tokenizer, *, api_key: str = "", timeout: float = 10.0) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url.rstrip("/")
        self._model = model
        self._tokens: VerdictTokens = verdict_tokens(tokenizer)
        self._opening = tuple(tokenizer(f"{UNSAFE}\n", add_special_tokens=False)["input_ids"])
        self._http = httpx.Client(headers=headers, timeout=timeout, trust_env=False)

    def prepare(self, heads: Sequence[tuple[int, ...]]) -> None:
        """Find the model. Raises GuardUnavailable while the engine is away, GuardError when it has another."""
        answer = self._call("GET", "/v1/models", None)
        names = [str(one.get("id")) for one in answer.get("data") or ()]
        if not self._model and len(names) == 1:
            self._model = names[0]
        if self._model not in names:
            raise GuardError(f"the vLLM at {self._url} serves {names}: set screening.vllm_model to the guard's")

    def score(self, prompts: Sequence[Prompt], ask_above: float) -> list[Scored]:
        """One per prompt, in order. Raises GuardUnavailable, and GuardError for an answer that is none."""
        told = self._complete([prompt.ids for prompt in prompts], max_tokens=1, logprobs=_LOGPROBS)
        scored = [self._tokens.scored(_logprobs(choice)) for choice in told]
        asked = [
            row for row, one in enumerate(scored)
            if prompts[row].codes and one.margin is not None and one.margin >= ask_above
        ]  # fmt: skip
        if asked:
            opened = [(*prompts[row].ids, *self._opening) for row in asked]
            for row, choice in zip(asked, self._complete(opened, max_tokens=_LONGEST_LIST), strict=True):
                ended = choice.get("finish_reason") == "stop"
                scored[row] = Scored(scored[row].margin, f"{UNSAFE}\n{choice.get('text', '')}" if ended else "")
        return scored

    def _complete(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[dict[str, Any]]:
        body = {
            "model": self._model, "prompt": [list(ids) for ids in prompts], "temperature": 0.0,
            "return_tokens_as_token_ids": True, **options,
        }  # fmt: skip
        choices = self._call("POST", "/v1/completions", body).get("choices")
        if not isinstance(choices, list) or len(choices) != len(prompts):
            raise GuardError(f"the vLLM at {self._url} did not answer {len(prompts)} prompts")
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def _call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, self._url + path, json=body)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise GuardUnavailable(f"the guard's vLLM at {self._url} is away: {why}") from None
        if answer.status_code in (429, 500, 502, 503, 504):
            raise GuardUnavailable(f"the guard's vLLM at {self._url} answered {answer.status_code}")
        try:
            found = answer.json() if answer.status_code == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            said = " ".join(answer.text.split())[:200]
            raise GuardError(f"the guard's vLLM at {self._url} answered {answer.status_code}: {said}")
        return found


def _logprobs(choice: dict[str, Any]) -> dict[int, float]:
    """Token id → log probability of the first position. What is not in that form is no evidence: empty."""
    try:
        top = choice["logprobs"]["top_logprobs"][0]
        return {int(name.removeprefix("token_id:")): float(value) for name, value in top.items()}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return {}
