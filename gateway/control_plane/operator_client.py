"""How commands talk to the operator API of this installation."""

from __future__ import annotations

from typing import Any

import httpx

from adapters.errors import Conflict, EngineUnavailable, NotFound, UnderstudyError
from gateway.config import Settings
from gateway.control_plane.token import operator_token
from gateway.control_plane.verification import PATIENCE


class OperatorClient:
    """One call each; every failure is one line. Raises ConfigError when there is no token yet."""

    def __init__(self, settings: Settings) -> None:
        host = settings.control.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - the wildcard is not an address to call
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{settings.control.port}"
        self._headers = {"authorization": f"Bearer {operator_token(settings)}"}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises NotFound, Conflict, EngineUnavailable or UnderstudyError with the API's words."""
        timeout = httpx.Timeout(PATIENCE + 10.0, connect=5.0)
        try:
            answer = httpx.request(
                method, self.url + path, json=body, headers=self._headers, timeout=timeout, trust_env=False,
                verify=False,  # noqa: S501 - plain HTTP: reading certificates would be most of the call
            )
        except httpx.HTTPError as error:
            raise EngineUnavailable(
                f"no controller answers at {self.url} ({error or type(error).__name__}): "
                "start `understudy up` or `understudy controller`"
            ) from None
        if answer.status_code < 400:
            return answer.json() if answer.content else None
        raise _KINDS.get(answer.status_code, UnderstudyError)(_message(answer))


_KINDS: dict[int, type[UnderstudyError]] = {404: NotFound, 409: Conflict, 503: EngineUnavailable}


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.url} answered {answer.status_code}: is it Understudy's operator API?"
