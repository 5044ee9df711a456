"""Completions from the engine that will serve: any vLLM with run-time LoRA, the adapter hot-loaded at each step.

At every new optimizer step the adapter is saved where the engine can read it and loaded under a name that no engine
has ever seen (an engine may go on answering with the weights it knew under a name: vLLM #42125, #33791); the one
before is unloaded. The engine samples with token ids in and out, so nothing is tokenised twice, and gives each
token's logprob. How far these lie from the trainer's own is a health number: TRL applies no importance correction to
completions from outside.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from adapters.errors import EngineRefused, EngineUnavailable, TrainingError
from trainer.ranks import barrier, shared
from trainer.rl_settings import CompletionsSettings
from trainer.sampling import Answer
from trainer.session import is_first

_LOAD_SECONDS = 120.0
_NAME = "training-{run}-{start}-{step}"


class Engine:
    """The few requests that training makes of one vLLM. Raises EngineUnavailable and EngineRefused, in one line."""

    def __init__(self, settings: CompletionsSettings) -> None:
        self.url = settings.url
        socket = settings.url.removeprefix("unix:") if settings.url.startswith("unix:") else None
        key = settings.api_key.get_secret_value()
        self._timeout = settings.timeout
        self._http = httpx.Client(
            base_url="http://engine" if socket else settings.url.rstrip("/"),
            # vLLM closes idle connections after five seconds, and training is busy for longer: ask anew each time.
            transport=httpx.HTTPTransport(uds=socket, limits=httpx.Limits(keepalive_expiry=2.0), retries=1),
            headers={"authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> dict[str, str]:
        """What is loaded: name → root (an adapter's folder as the engine sees it)."""
        body = self._json("GET", "/v1/models", None, 10.0)
        try:
            return {str(model["id"]): str(model.get("root", "")) for model in body["data"]}
        except (KeyError, TypeError, AttributeError):
            raise EngineUnavailable(f"{self.url} answers /v1/models with something else: is it a vLLM?") from None

    def load(self, name: str, folder: str) -> None:
        """Load the adapter in `folder` (as the engine sees it) as `name`, and see that it is there."""
        try:
            self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, _LOAD_SECONDS)
        except EngineRefused as error:
            if error.status == 404 and "adapter" not in str(error).lower():
                raise TrainingError(
                    f"the engine at {self.url} has no run-time LoRA: start it with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
                ) from None
            raise TrainingError(
                f"the engine at {self.url} cannot load {folder}: {error}; does it see this folder? "
                "(completions.shared_dir, completions.engine_dir)"
            ) from None
        if self.models().get(name) != folder:
            raise TrainingError(f"the engine at {self.url} said that it loaded {name}, but does not list it")

    def unload(self, name: str) -> None:
        """Take `name` off the engine; one that it does not have is fine already."""
        try:
            self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _LOAD_SECONDS)
        except EngineRefused as error:
            if error.status != 404:
                raise

    def complete(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of /v1/completions, in order."""
        answer = self._json("POST", "/v1/completions", body, self._timeout)
        try:
            return sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        except (KeyError, TypeError, ValueError):
            raise EngineUnavailable(f"{self.url} answers /v1/completions without choices: is it a vLLM?") from None

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        response = self._request(method, path, body, seconds)
        try:
            return response.json()
        except ValueError:
            raise EngineUnavailable(f"{self.url} answers {path} with no JSON: is it a vLLM?") from None

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> httpx.Response:
        patience = httpx.Timeout(seconds, connect=10.0)
        try:
            try:
                response = self._http.request(method, path, json=body, timeout=patience)
            except (httpx.RemoteProtocolError, httpx.ReadError):  # an idle connection that was closed meanwhile
                response = self._http.request(method, path, json=body, timeout=patience)
        except httpx.TimeoutException:
            late = f"{self.url} did not answer {path} within {seconds:g} s (completions.timeout)"
            raise EngineUnavailable(late) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailable(f"the engine at {self.url} cannot be reached: {reason}") from None
        if response.status_code >= 400:
            raise EngineRefused(_said(response), response.status_code)
        return response


class EngineSampler:
    """Answers of the adapter in training, sampled by the engine.

    `save`: writes the adapter into a folder, PEFT's files. `run`: the run's name, for the engine's log.
    """

    def __init__(self, settings: CompletionsSettings, run: str, folder: Path, save: Callable[[Path], None]) -> None:
        self.engine = Engine(settings)
        self.step: int | None = None     # of the adapter that is loaded
        self.loaded = ""
        self._save = save
        self._run = run
        # Each start of the process has names of its own: a resumed run repeats steps, with other weights perhaps.
        self._start = uuid.uuid4().hex[:8]
        self._folder = (Path(settings.shared_dir) if settings.shared_dir else folder) / f"hot-{self._start}"
        self._seen_as = Path(settings.engine_dir) / self._folder.name if settings.engine_dir else self._folder

    def sync(self, step: int) -> None:
        """Let the engine answer with the adapter as it is at `step`; nothing to do when it does already.

        Every rank must call it; the first one saves and loads for all.
        """
        if step == self.step:
            return
        name = str(shared(_NAME.format(run=self._run, start=self._start, step=step)))
        self._save(self._folder / str(step))
        if is_first():
            self.engine.load(name, str(self._seen_as.absolute() / str(step)))
        barrier()
        before, old = self.loaded, self.step
        self.step, self.loaded = step, name
        if before and is_first():
            self.engine.unload(before)
            # Its folder may go only now: an engine that evicted an adapter reads it again, and dies if it is gone.
            shutil.rmtree(self._folder / str(old), ignore_errors=True)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        **options: Any,
    ) -> list[list[Answer]]:
        """`samples` answers to each prompt (token ids) with their logprobs. `options`: top_p and others of vLLM's."""
        body = {
            "model": self.loaded, "prompt": [list(prompt) for prompt in prompts], "n": samples,
            "max_tokens": max_tokens, "temperature": temperature, "seed": seed, "top_p": 1.0, "top_k": 0,
            "logprobs": 0, "return_token_ids": True, "add_special_tokens": False, "skip_special_tokens": True,
        }  # fmt: skip
        choices = self.engine.complete({**body, **options})
        if len(choices) != len(prompts) * samples:
            raise EngineUnavailable(f"{self.engine.url} gave {len(choices)} of {len(prompts) * samples} completions")
        answers = [
            _answer(choice, prompts[place // samples], self.engine.url) for place, choice in enumerate(choices)
        ]
        return [answers[i : i + samples] for i in range(0, len(answers), samples)]

    def close(self) -> None:
        """Unload, and forget the files. An engine that is gone already is no error: the run is over."""
        try:
            if self.loaded and is_first():
                self.engine.unload(self.loaded)
        except (EngineUnavailable, EngineRefused):
            pass
        finally:
            self.engine.close()
            if is_first():
                shutil.rmtree(self._folder, ignore_errors=True)


def _answer(choice: Mapping[str, Any], prompt: Sequence[int], url: str) -> Answer:
    try:
        ids = tuple(int(i) for i in choice["token_ids"])
        found = choice["logprobs"]["token_logprobs"]
        logprobs = tuple(float("nan") if value is None else float(value) for value in found)
        text = str(choice["text"])
    except (KeyError, TypeError, ValueError):
        raise EngineUnavailable(f"{url} gives no token ids or logprobs: vLLM 0.10.2 or newer is needed") from None
    if not ids or len(ids) != len(logprobs):
        raise EngineUnavailable(f"{url} gave {len(ids)} tokens with {len(logprobs)} logprobs")
    return Answer(tuple(prompt), ids, text, logprobs)


def _said(response: httpx.Response) -> str:
    """The message of an engine's refusal, whatever its shape."""
    try:
        body = response.json()
    except ValueError:
        return f"status {response.status_code}: {response.text[:200]}"
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or found
    return f"status {response.status_code}: {str(found)[:300]}"


class GapAlarm:
    """How far the engine's logprobs lie from the trainer's, and when that is too far for too long."""

    def __init__(self, settings: CompletionsSettings) -> None:
        self._settings = settings
        self._above = 0

    def observe(self, gap: float) -> None:
        """Mean |engine − trainer| of a step's tokens, nats. Raises TrainingError after `gap_patience` steps too far."""
        limit = self._settings.max_logprob_gap
        self._above = 0 if gap <= limit else self._above + 1
        if self._above >= self._settings.gap_patience:
            raise TrainingError(
                f"the engine's logprobs lie {gap:.3f} nats a token from the trainer's, above "
                f"completions.max_logprob_gap = {limit:g}, for {self._above} steps: does it serve the run's base, "
                "at the same quantization?"
            )


def check_engine(settings: CompletionsSettings) -> None:
    """The engine is there and speaks. Raises EngineUnavailable and EngineRefused."""
    engine = Engine(settings)
    try:
        engine.models()
    finally:
        engine.close()
