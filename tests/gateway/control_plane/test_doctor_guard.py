"""What the doctor says of a guard that is away, not ready, refuses the key, or is none."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import RouteSettings, Settings
from gateway.control_plane import doctor_guard
from gateway.control_plane.doctor_guard import check_guard
from gateway.control_plane.findings import Finding
from gateway.screening_settings import ScreeningSettings
from tests.support.ports import free_port
from tests.support.scripted_http import scripted
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted guard is a thread of this process: it answers when the machine lets it."""
    monkeypatch.setattr(doctor_guard, "_PATIENCE", PATIENCE)


def found(url: str, **options: Any) -> list[Finding]:
    screening = ScreeningSettings(**{"mode": "enforce", "url": url, **options})
    return list(check_guard(Settings(screening=screening, route=(RouteSettings(name="support"),))))


def test_nothing_is_said_where_nothing_is_screened() -> None:
    assert list(check_guard(Settings())) == []


def test_a_guard_that_is_away() -> None:
    (one,) = found(f"http://127.0.0.1:{free_port()}")
    assert one.level == "fail" and "nothing leaves the gateway" in one.what and "screening.url" in one.mend
    (one,) = found(f"http://127.0.0.1:{free_port()}", mode="audit")
    assert "nothing is screened" in one.what


@pytest.mark.parametrize(("status", "body", "level", "what"), [
    (200, {"results": []}, "ok", "mode enforce"), (401, {}, "fail", "refuses the gateway's key"),
    (503, {"error": {"message": "the guard is not ready: loading"}}, "fail", "not ready: the guard is not ready: loading"),
    (503, b"nginx", "fail", "not ready: nginx"), (200, b"<html>", "fail", "is no guard"), (404, {}, "fail", "is no guard"),
], ids=["well", "key", "loading", "proxy", "html", "other"])  # fmt: skip
def test_what_answers(status: int, body: Any, level: str, what: str) -> None:
    with scripted(lambda _path, _body: (status, body)) as server:
        (one,) = found(server.url, api_key="key")
        assert (one.level, what in one.what) == (level, True), one
        assert server.asked[0][1]["authorization"] == "Bearer key"


def test_settings_that_are_not_what_one_may_think() -> None:
    with scripted(lambda _path, _body: (200, {"results": []})) as server:
        said = [one.what for one in found(server.url, on_unavailable="allow", routes={"suport": {"mode": "off"}})[1:]]
    assert "everything leaves unscreened" in said[0] and "screening.routes.suport is for no declared route" in said[1]
    toy = ScreeningSettings(mode="audit", model="demo", port=free_port())
    first, second = check_guard(Settings(screening=toy))
    assert first.level == "warn" and "understudy guard" in first.mend and "protects nobody" in second.what
