"""The doctor's look at the guard: can it be asked, is it ready, is the key right, and what is screened at all."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from gateway.config import Settings
from gateway.control_plane.findings import Finding, fail, ok, warn

_PATIENCE = 3.0  # seconds
_START = "start it (understudy up, or understudy guard)"


def check_guard(settings: Settings) -> Iterator[Finding]:
    """Findings for `[screening]`; none where nothing is screened."""
    screening = settings.screening
    if not screening.active:
        return
    yield _service(settings)
    if screening.served_here and screening.model == "demo":
        yield warn("screening", "model is the demo's toy, which protects nobody", "name a Llama Guard")
    if screening.on_unavailable == "allow" and screening.mode == "enforce":
        what = "enforce with on_unavailable allow: while the guard is away, everything leaves unscreened"
        yield warn("screening", what, "set screening.on_unavailable = block, or alert on verdict unavailable")
    known = {route.name for route in settings.route} | {settings.engine.served_name}
    for name in screening.routes.keys() - known if settings.route else ():
        yield warn("screening", f"screening.routes.{name} is for no declared route", "correct the name, or declare it")


def _service(settings: Settings) -> Finding:
    """Ask it the way the workers do, for nothing: that tells ready, and the key, apart."""
    screening = settings.screening
    url = screening.guard_url
    headers = {"authorization": f"Bearer {screening.api_key}"} if screening.api_key else {}
    mend = _START if screening.served_here else f"start it there, or correct screening.url ({url})"
    try:
        answer = httpx.post(
            f"{url}/v1/screen", json={"items": []}, headers=headers, timeout=_PATIENCE, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        effect = "nothing leaves the gateway" if _blocks(settings) else "nothing is screened"
        level = warn if screening.served_here and screening.mode == "audit" else fail
        return level("guard", f"{url} does not answer ({reason}): {effect}", mend)
    if answer.status_code in (401, 403):
        return fail("guard", f"{url} refuses the gateway's key", "set screening.api_key to the guard's own")
    if answer.status_code == 503:
        return fail("guard", f"{url} is not ready: {_message(answer)}", "wait, or see the guard's log")
    if answer.status_code != 200 or "results" not in answer.text:
        return fail("guard", f"{url} answers {answer.status_code} and is no guard", "correct screening.url")
    return ok("guard", f"answers at {url}; mode {screening.mode}, without a verdict: {screening.on_unavailable}")


def _blocks(settings: Settings) -> bool:
    return settings.screening.mode == "enforce" and settings.screening.on_unavailable == "block"


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
