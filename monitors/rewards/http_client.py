"""HTTP as graders need it: keys from the environment, retries with backoff, and only what is worth retrying."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from time import sleep
from typing import Any

import httpx

from adapters.errors import ConfigError, GraderError, GraderUnavailable

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_THIS_BODY = frozenset({400, 413, 422})
_LONGEST_WAIT = 20.0      # seconds between two attempts, whatever the server asks for


def key_from(variable: str) -> str:
    """The secret in the environment variable, or in the file that variable_FILE names; '' where neither is set."""
    if value := os.environ.get(variable, ""):
        return value.strip()
    name = os.environ.get(f"{variable}_FILE", "")
    if not name:
        return ""
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{variable}_FILE: {name} cannot be read: {error.strerror}") from None


class Refused(GraderError):
    """The server refuses this very request (400, 413, 422): other requests may well be answered."""


class Client:
    """POSTs JSON to one server. Safe in any number of threads.

    The bearer key is `key`, or what the environment variable `key_variable` (or a file, see key_from) holds.
    """

    def __init__(
        self, who: str, url: str, *, timeout: float, key: str = "", key_variable: str = "", attempts: int = 4
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"reward {who!r}: {url!r} is no http or https URL")
        self._who = who
        self._url = url.rstrip("/")
        self._attempts = attempts
        key = key or (key_from(key_variable) if key_variable else "")
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._http = httpx.Client(timeout=timeout, headers=headers, limits=httpx.Limits(max_connections=256))

    def post(self, path: str, body: Any) -> Any:
        """The answer's JSON object.

        Raises GraderUnavailable when the server is away, slow or busy also after retries, and GraderError when it
        refuses: asking again would not help (Refused: for this body).
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")  # answers may hold lone surrogates
        reason = ""
        for attempt in range(self._attempts):
            wait = 0.25 * 2**attempt * (0.75 + random.random() / 2)
            try:
                answer = self._http.post(self._url + path, content=content)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
            else:
                if answer.status_code < 300:
                    return self._json(answer)
                reason = f"status {answer.status_code}: {_message(answer)}"
                if answer.status_code not in _RETRIED:
                    kind = Refused if answer.status_code in _THIS_BODY else GraderError
                    raise kind(f"reward {self._who!r}: {self._url}{path} refuses: {reason}")
                wait = max(wait, _retry_after(answer))
            if attempt + 1 < self._attempts:
                sleep(min(wait, _LONGEST_WAIT))
        raise GraderUnavailable(f"reward {self._who!r}: {self._url} cannot be asked now: {reason}")

    def _json(self, answer: httpx.Response) -> Any:
        try:
            content = answer.json()
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise GraderUnavailable(f"reward {self._who!r}: {answer.url} answers {answer.text[:60]!r}, not with JSON")
        return content


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return 0.0


def _message(answer: httpx.Response) -> str:
    """The server's own words, in one short line."""
    try:
        error = answer.json()["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return " ".join(text.split())[:200]
