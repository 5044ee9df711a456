"""The few requests that training makes of one vLLM, and what can go wrong with them, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from adapters.errors import EngineRefused, EngineUnavailable, TrainingError
from trainer.rl_settings import CompletionsSettings

_LOAD_SECONDS = 120.0


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
        return {str(model["id"]): str(model.get("root", "")) for model in self._listed()}

    def base(self) -> str:
        """The name of the base under the adapters. Raises EngineUnavailable when there is none."""
        names = [str(model["id"]) for model in self._listed() if model.get("parent") is None]
        if not names:
            raise EngineUnavailable(f"{self.url} lists no base: is it a vLLM?")
        return names[0]

    def _listed(self) -> list[dict[str, Any]]:
        body = self._json("GET", "/v1/models", None, 10.0)
        try:
            return [{**model, "id": model["id"]} for model in body["data"]]
        except (KeyError, TypeError):
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


def check_engine(settings: CompletionsSettings) -> None:
    """The engine is there and speaks. Raises EngineUnavailable and EngineRefused."""
    engine = Engine(settings)
    try:
        engine.models()
    finally:
        engine.close()


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
